#!/bin/bash
# What a workunit may rely on, as with ceph.git's task.
set -eu
[[ $PWD == "$TESTDIR"/mnt.0/client.0/tmp && -z $(ls -A) ]]
[[ $CEPH_ID == 0 && $CEPH_ARGS == "--cluster ceph" && $CEPH_REF && $CEPH_MNT == "$TESTDIR"/mnt.0 && $CEPH_BASE == "$CEPH_ROOT" ]]
[[ -x $CEPH_ROOT/qa/tests/workunits/passes.sh && $PATH == *:/usr/sbin ]]
[[ $FROM_TASK == "a b" && $FROM_OVERRIDES == 1 && $1 == "an argument" ]]
[[ -d $TMPDIR && $TMPDIR != /tmp && $HOME != /root ]]
sudo -n -u root FOO=bar sh -c 'test "$FOO" = bar'
touch left-in-scratch
