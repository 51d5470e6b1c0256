#!/bin/sh
echo "these are the last words"
exit 3
