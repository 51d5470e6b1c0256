#!/bin/sh
# A daemon that nobody ends: its own session, no open pipe, not a child of anything that waits for it.
setsid sleep 601 </dev/null >/dev/null 2>&1 &
echo "leaves"
