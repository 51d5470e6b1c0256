"""What a job left running: found by a mark in the environment, which a child keeps wherever it hides (setsid, double fork)."""

import os
import pathlib
import signal
import time

# Every process of a job has it, with the job's folder as its value.
MARK = "LUS_QA_JOB"
_TERM_SECONDS = 3
_KILL_SECONDS = 10


def find(work):
    """{pid: command line} of the processes that belong to the job in the folder `work`; zombies are gone already."""
    wanted = f"{MARK}={work}".encode()
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _marked(entry, wanted):
            found[int(entry.name)] = _command(entry)
    return found


def end(work):
    """Ends all of them, SIGTERM first; what there was, as `find` returns it."""
    found = find(work)
    if found and not _signal_until_gone(work, signal.SIGTERM, _TERM_SECONDS):
        _signal_until_gone(work, signal.SIGKILL, _KILL_SECONDS)
    return found


def kill(work):
    """Ends all of them at once; what there was, as `find` returns it."""
    found = find(work)
    if found:
        _signal_until_gone(work, signal.SIGKILL, _KILL_SECONDS)
    return found


def _signal_until_gone(work, number, seconds):
    end_at = time.monotonic() + seconds
    signalled = set()
    while True:
        left = find(work)
        for pid in set(left) - signalled:
            signalled.add(pid)
            _send(pid, work, number)
        if not left:
            return True
        if time.monotonic() > end_at:
            return False
        time.sleep(0.05)


def _send(pid, work, number):
    """Signals exactly the process that has the mark: the handle pins it before the mark is looked at again."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _marked(pathlib.Path("/proc") / str(pid), f"{MARK}={work}".encode()):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _marked(entry, wanted):
    try:
        return wanted in (entry / "environ").read_bytes().split(b"\0") and (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def _command(entry):
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
