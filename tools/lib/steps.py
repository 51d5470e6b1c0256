"""Steps that run one after the other: progress while they run, a log of each, and a sum at the end."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import ui
from ui import Failure

# Where nobody watches a terminal, a long step says now and then that it is alive.
_SIGN_OF_LIFE_SECONDS = 60
_TAIL_LINES = 40
# From SIGTERM to SIGKILL for a step that is over its limit; a check cleans up in it.
_GRACE_SECONDS = 20


@dataclasses.dataclass
class Outcome:
    """What a step found: counts, and a word about it."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reason: str = ""
    timed_out: bool = False


@dataclasses.dataclass
class Step:
    """One step: a name, what it does, and whether it needs the cluster."""

    name: str
    run: Callable
    cluster: bool = False


class Context:
    """A running step, for what it calls: where its log is, and a line of progress."""

    def __init__(self, label, log):
        self.label = label
        self.log = log
        self._begun = time.monotonic()
        self._said = self._begun
        self._note = ""

    def elapsed(self):
        """Seconds since the step began."""
        return time.monotonic() - self._begun

    def note(self, text):
        """What the step does now."""
        self._note = text
        self.alive(force=True)

    def alive(self, force=False):
        """Shows that the step runs: on a terminal its last line of output, elsewhere a line now and then."""
        if sys.stdout.isatty():
            last = (ui.tail(self.log, 1) or [""])[0].strip()
            line = f"{self.label}  {self.elapsed():5.0f} s  {self._note or last}"
            print(f"\r\033[K{line[: os.get_terminal_size().columns - 1]}", end="", flush=True)
        elif force or time.monotonic() - self._said > _SIGN_OF_LIFE_SECONDS:
            self._said = time.monotonic()
            print(f"{self.label}  {self.elapsed():5.0f} s  {self._note or 'still runs'}", flush=True)


def run_all(steps, logs, ready):
    """Runs the steps and prints the sum; the exit status. `ready(context)` is the outcome of a step that cannot have its cluster."""
    logs.mkdir(parents=True, exist_ok=True)
    total = Outcome()
    width = max(len(step.name) for step in steps)
    failures, skips = [], []
    for number, step in enumerate(steps, 1):
        log = logs / f"{step.name.replace(' ', '-')}.log"
        log.write_text("")
        context = Context(f"[{number:2}/{len(steps)}] {step.name:{width}}", log)
        context.alive(force=not sys.stdout.isatty() and step.name == "tests")
        outcome = (ready(context) if step.cluster else None) or _run(step, context)
        _print_outcome(context, outcome)
        if outcome.failed:
            failures.append((step.name, outcome, log))
        if outcome.skipped:
            skips.append((step.name, outcome))
        total.passed += outcome.passed
        total.failed += outcome.failed
        total.skipped += outcome.skipped
    print()
    for name, outcome in skips:
        print(f"{ui.colour('skipped', 'yellow', sys.stdout)}  {name}: {outcome.reason}")
    for name, outcome, log in failures:
        print(f"{ui.colour('failed', 'red', sys.stdout)}  {name}: {outcome.reason or 'see'} {log}")
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return 1 if total.failed else 0


def _run(step, context):
    try:
        return step.run(context)
    except (OSError, Failure) as error:
        with open(context.log, "a") as log:
            log.write(f"{error}\n")
        return Outcome(failed=1, reason=str(error).splitlines()[0])


def _print_outcome(context, outcome):
    word, name = ("failed", "red") if outcome.failed else ("ok", "green") if outcome.passed else ("skipped", "yellow")
    count = outcome.passed + outcome.failed + outcome.skipped
    about = outcome.reason
    if count > 1:
        about = f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"
    start = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"{start}{context.label}  {context.elapsed():5.0f} s  {ui.colour(word, name, sys.stdout)}  {about}".rstrip(), flush=True)
    if outcome.failed:
        print(*(f"    {line}" for line in ui.tail(context.log, _TAIL_LINES)), f"    the whole log: {context.log}", sep="\n")


def by_status(status, _log):
    """Passed if it exited with 0."""
    return Outcome(passed=1) if status == 0 else Outcome(failed=1, reason=f"exited with {status}")


def by_test_results(status, log):
    """Counts the tests of a `cargo test`; ignored ones are skipped, and named."""
    text = log.read_text(errors="replace")
    outcome = Outcome()
    for passed, failed, ignored in re.findall(r"^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored", text, re.M):
        outcome.passed += int(passed)
        outcome.failed += int(failed)
        outcome.skipped += int(ignored)
    if outcome.skipped:
        outcome.reason = ", ".join(re.findall(r"^test (\S+).* \.\.\. ignored", text, re.M))
    if status != 0 and not outcome.failed:
        # It did not build, or a test program was killed.
        outcome.failed = 1
        outcome.reason = f"cargo test exited with {status}"
    elif not outcome.passed + outcome.failed + outcome.skipped:
        outcome.failed = 1
        outcome.reason = "no test ran"
    return outcome


def by_last_line(status, log):
    """Counts what the last line says, `N passed, N failed, N skipped`, as qa/run prints it."""
    found = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", (ui.tail(log, 1) or [""])[0])
    passed, failed, skipped = map(int, found.groups()) if found else (0, 0, 0)
    if status != 0 and not failed:
        return Outcome(failed=1, reason=f"exited with {status}")
    if not passed + failed:
        return Outcome(failed=1, reason="nothing ran")
    return Outcome(passed=passed, failed=failed, skipped=skipped)


def run_command(context, words, environment, limit, judge=by_status):
    """Runs a command with its output in the step's log, within a time limit in seconds; what `judge` makes of its end."""
    words = [str(word) for word in words]
    with open(context.log, "a") as log:
        log.write(f"$ {' '.join(words)}\n")
        log.flush()
        child = subprocess.Popen(
            words,
            cwd=pathlib.Path(__file__).resolve().parents[2],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A group of its own, so that what it started ends with it.
            start_new_session=True,
        )
    end = time.monotonic() + limit
    try:
        while child.poll() is None and time.monotonic() < end:
            context.alive()
            time.sleep(0.1)
        if child.returncode is None:
            return Outcome(failed=1, reason=f"not done within {limit} s", timed_out=True)
    finally:
        _end_group(child)
    return judge(child.returncode, context.log)


def _end_group(child):
    """Ends the child's process group; what went into a session of its own (a cluster's daemons) stays."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
