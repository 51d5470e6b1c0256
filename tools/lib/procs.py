"""Starts daemons, remembers exactly which process it started, and stops only that one.

A process is recorded by the process itself, before it becomes the daemon: boot id and its line of /proc/PID/stat.
(boot, pid, start time) never come twice, so a recycled pid is never mistaken for the daemon.
"""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import time

from ui import Failure

# $0: the record to write; the rest: the command to become. The start time is that of the fork, exec keeps it.
_RECORD_AND_EXEC = """
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id && echo "$boot $stat" >"$0" || exit 1
exec "$@"
"""

# Field 22 of /proc/PID/stat, counted after the parenthesised name (fields 3 and on).
_STATE, _START_TIME = 0, 19


def raise_file_limit():
    """Raises the open-file limit of this process and its children as far as it goes."""
    wanted = 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (wanted, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            return
        except (ValueError, OSError):
            continue


def clean_environment():
    """The caller's environment without anything that Ceph's tools or daemons would take from it."""
    return {key: value for key, value in os.environ.items() if not key.startswith("CEPH_")}


class Process:
    """One daemon's process: its record is the file `DIR/run/NAME.proc`, its stdout and stderr `DIR/log/NAME.out`."""

    def __init__(self, name, record, output):
        self.name = name
        self.record = pathlib.Path(record)
        self.output = pathlib.Path(output)
        self.child = None

    def start(self, argv):
        """Starts it detached from the terminal and returns when it is on record; the caller knows that it does not run."""
        self.record.unlink(missing_ok=True)
        with open(self.output, "ab") as output:
            self.child = subprocess.Popen(
                ["/bin/sh", "-c", _RECORD_AND_EXEC, self.record, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_environment(),
                start_new_session=True,
                cwd="/",
            )
        while self.child.poll() is None and not self._recorded():
            time.sleep(0.001)

    def _recorded(self):
        with contextlib.suppress(FileNotFoundError):
            return self.record.read_text().endswith("\n")
        return False

    def pid(self):
        """The pid if exactly the recorded process is alive, else None."""
        if self.child is not None:
            self.child.poll()
        try:
            boot, recorded = self.record.read_text().split(" ", 1)
            pid, recorded = int(recorded.split(" ", 1)[0]), _fields(recorded)
            now = _fields(pathlib.Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return None
        same = boot == _boot_id() and now[_START_TIME] == recorded[_START_TIME]
        return pid if same and now[_STATE] not in "ZX" else None

    def started_at(self):
        """When it was started, in seconds since the epoch; None when unknown."""
        try:
            return self.record.stat().st_mtime
        except FileNotFoundError:
            return None

    def send(self, number):
        """Sends a signal to exactly the recorded process; False if it is gone."""
        pid = self.pid()
        if pid is None:
            return False
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # The handle pins the process; it is ours only if the record still matches after it was opened.
            if self.pid() != pid:
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


def stop(processes, seconds, number=signal.SIGTERM):
    """Sends `number` to all, waits, then SIGKILL to those that stay. Returns the names of those that had to be killed."""
    for process in processes:
        process.send(number)
    killed = []
    if not _wait_gone(processes, seconds):
        killed = [process.name for process in processes if process.send(signal.SIGKILL)]
        if not _wait_gone(processes, 10):
            left = ", ".join(f"{p.name} (pid {p.pid()})" for p in processes if p.pid())
            raise Failure(f"{left} did not end even on SIGKILL", "a process in state D waits for a disk: see `dmesg`")
    for process in processes:
        process.record.unlink(missing_ok=True)
    return killed


def _wait_gone(processes, seconds):
    end = time.monotonic() + seconds
    while any(process.pid() for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _fields(stat):
    return stat.rpartition(")")[2].split()


def _boot_id():
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
