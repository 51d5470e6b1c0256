# Sourced by the checks of tools/vstart; not a check itself.

set -u
root=$(CDPATH='' cd -- "$(dirname "$0")/../.." && pwd)
vstart=$root/tools/vstart
# Not below the checkout: its path might be near the limit that one of the checks is about.
work=$(mktemp -d /tmp/vstart-check.XXXXXX)
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

cleanup() {
    for made in "$work"/*/vstart.json; do
        [ -e "$made" ] && "$vstart" destroy --dir "$(dirname "$made")"
    done
    rm -rf "$work"
}

say() {
    echo "--- $*"
}

fail() {
    echo "FAILED: $*"
    exit 1
}

skip() {
    echo "$*"
    exit 77
}

# must WORDS...: the command succeeds.
must() {
    "$@" || fail "'$*' exited with $?"
}

# refuses TEXT WORDS...: the command fails, and says TEXT.
refuses() {
    text=$1
    shift
    if "$@" >"$work/refused" 2>&1; then
        cat "$work/refused"
        fail "'$*' did not fail"
    fi
    grep -qF -- "$text" "$work/refused" || {
        cat "$work/refused"
        fail "'$*' did not say '$text'"
    }
}

# status DIR EXPRESSION: a Python expression over the cluster's status `s`; `pid` maps names to pids.
status() {
    "$vstart" status --dir "$1" -f json | /usr/bin/python3 -c '
import json, sys
s = json.load(sys.stdin)
pid = {daemon["name"]: daemon["pid"] for daemon in s["daemons"]}
print(eval(sys.argv[1]))' "$2"
}

# in_cluster DIR WORDS...: a command in the environment of a cluster.
in_cluster() (
    exports=$("$vstart" env --dir "$1") || exit 1
    eval "$exports"
    shift
    exec timeout 60 "$@"
)

# healthy DIR: waits until Ceph says HEALTH_OK.
healthy() {
    for _ in $(seq 60); do
        [ "$(status "$1" 's["health"]')" = HEALTH_OK ] && return
        sleep 0.5
    done
    in_cluster "$1" ceph health detail
    fail "$1 is not healthy after 30 s"
}

# ended PID: whether a process is gone (or waits only to be collected by its parent).
ended() {
    ! [ -e "/proc/$1" ] || grep -q '^State:[[:space:]]*[ZX]' "/proc/$1/status" 2>/dev/null
}

# in_private_mounts WORDS...: a command that may mount what it likes without anybody else seeing it; 77 where that cannot be.
in_private_mounts() {
    if unshare --mount true 2>/dev/null; then
        unshare --mount "$@"
    elif ! grep -q ' shared:' /proc/self/mountinfo && unshare --mount --propagation unchanged true 2>/dev/null; then
        # In a chroot, whose root is no mount, nothing can be made private as a whole; nothing is shared here anyway.
        unshare --mount --propagation unchanged "$@"
    else
        return 77
    fi
}
