#!/bin/sh
echo "hangs"
exec sleep 600
