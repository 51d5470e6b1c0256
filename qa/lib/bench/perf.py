"""Where a target's time goes: `perf` on its process during one more measurement, which counts nowhere."""

import collections
import re
import shutil

import qa

from bench.measurement import measure

_HERTZ = 999
_MARGIN_S = 60
_SAMPLE = re.compile(r"^(?P<comm>\S.*?)\s+\d+(/\d+)?\s")


def record(row, side, load, runtime, osds, folder):
    """Records the side's process for `runtime` seconds of a measurement of three times that, and writes `perf-ROW-SIDE.top` (functions by their share) and `.folded`
    (stacks with their counts, for flame graphs) to `folder`; returns the paths."""
    qa.require(shutil.which("perf"), "perf is not installed; run: apt-get install linux-perf")
    base = folder / f"perf-{row.name}-{side.name}"
    data = base.with_suffix(".data")

    def watch(pid):
        words = ["perf", "record", "-q", "-F", _HERTZ, "-g", "-p", pid, "-o", data, "--", "sleep", runtime]
        qa.run(words, timeout=runtime + _MARGIN_S)

    measure(row, side, load, runtime * 3, osds, watch)
    top = qa.run(["perf", "report", "-i", data, "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.3"], timeout=300).stdout
    script = qa.run(["perf", "script", "-i", data, "-F", "comm,tid,ip,sym"], timeout=300).stdout
    stacks = fold(script)
    qa.require(stacks, f"perf saw nothing of {side.name}")
    paths = [base.with_suffix(".top"), base.with_suffix(".folded")]
    paths[0].write_text(top)
    paths[1].write_text("".join(f"{stack} {count}\n" for stack, count in sorted(stacks.items())))
    data.unlink()
    return paths


def fold(script):
    """The stacks of `perf script -F comm,tid,ip,sym` with how often each was seen: `thread;outermost;...;innermost`."""
    stacks = collections.Counter()
    comm, frames = None, []
    for line in [*script.splitlines(), ""]:
        if not line.strip():
            if comm is not None:
                stacks[";".join([comm, *reversed(frames)])] += 1
            comm, frames = None, []
        elif comm is None:
            found = _SAMPLE.match(f"{line.strip()} ")
            comm = found["comm"] if found else line.strip()
        else:
            frames.append(line.strip().partition(" ")[2].replace(";", ":") or "[unknown]")
    return stacks
