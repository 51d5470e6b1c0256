"""What the kernel says of a process, its connections and the machine, as finely as it can."""

import collections
import contextlib
import os
import pathlib
import time

import qa

_ESTABLISHED = "01"
_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)  # idle, iowait: fields of the first line of /proc/stat
_STEAL, _GUESTS = 7, 8


@contextlib.contextmanager
def _alive(pid):
    try:
        yield
    except OSError as error:
        raise qa.Failed(f"process {pid} is gone; it was measured, or an OSD of what was") from error


def cpu_seconds(pid):
    """User and system time of a process with all its threads, ended ones included, by its CPU clock (nanoseconds, where /proc counts in hundredths of a second)."""
    with _alive(pid):
        return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes them


def machine_seconds():
    """(busy, steal): processor time that was used, and that the hypervisor kept from this machine, over all cores."""
    fields = [int(word) / _TICKS for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    busy = sum(value for index, value in enumerate(fields[:_GUESTS]) if index not in (*_IDLE, _STEAL))
    return busy, fields[_STEAL]


def connections(pid, portal):
    """How many established TCP connections end at `portal` (ADDRESS:PORT) in the network namespace of a process, the other ends not counted."""
    port = f":{int(portal.rpartition(':')[2]):04X}"
    count = 0
    for table in ("tcp", "tcp6"):
        with _alive(pid):
            lines = pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
        for line in lines[1:]:
            fields = line.split()
            count += fields[1].endswith(port) and fields[3] == _ESTABLISHED
    return count


def threads(pid):
    """How many threads of which name a process has; a number at the name's end is left away."""
    names = collections.Counter()
    with _alive(pid):
        tasks = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
    for task in tasks:
        try:
            names[(task / "comm").read_text().strip().rstrip("0123456789").rstrip("-_")] += 1
        except OSError:
            continue  # it ended in between
    return dict(sorted(names.items()))
