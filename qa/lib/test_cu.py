"""libiscsi's conformance suite, iscsi-test-cu, one test per process, each with a limit and a verdict.

iscsi-test-cu has no word for a test that was skipped: it prints [SKIPPED] and counts it as passed. Here a skip is a skip. What else the program does of itself is
said where it matters.
"""

import dataclasses
import re
import subprocess
import time

PASS, SKIP, FAIL, TIMEOUT, CRASH = "pass", "skip", "FAIL", "TIMEOUT", "CRASH"
# These fail a run.
BAD = (FAIL, TIMEOUT, CRASH)
NOTE_CHARS = 160
# Takes a second URL, of another path to the same unit. Where others are given one they overrun their heap.
TWO_PATHS = "MultipathIO"
# What may be skipped, by SUITE.TEST or by the note, and why.
SKIPS = (
    (r"^NoMedia\.", "needs a removable medium"),
    (r"^PreventAllow\.", "needs a removable medium"),
    (r"^StartStopUnit\.", "needs a removable medium"),
    # Readonly and Reservations say so when they have asserted the rest.
    (r"SANITIZE CRYPTO_ERASE is not implemented", "there is no key to erase"),
    # Said after it has asserted that WSNZ=1 is kept. With WSNZ=0 UnmapUntilEnd would fail, which sends a block of FFh with UNMAP=1 and
    # wants zeroes read: where LBPRZ=1 such a block is written (SBC-3, "WRITE SAME command and unmap operations").
    (r"WRITESAME1[06] does not support 0-blocks", "no more asserted than that zero blocks are refused"),
    (r"nothing asserted", "asserts nothing"),
)
# The disks that most tests get, and what another one is for, by SUITE.TEST: (pattern, size, options of `lus lu create`; "{block}" is the block size).
DISK = ("1G", ())
DISKS = (
    (r"^ReadOnly\.", "1G", ("--read-only",)),
    # Of physical blocks of several blocks it asks for the status of one that is not the first, and takes none but an answer that begins with the next
    # physical block. SBC-4, "LBA status descriptor relationships": the answer begins with the block that was asked for.
    (r"^GetLBAStatus\.UnmapSingle$", "1G", ("--physical-block-size", "{block}")),
    # They skip where a physical block is one block.
    (r"\.(InvalidDataOutSize|UnmapUnaligned)$", "1G", ("--physical-block-size", "16384")),
    # It overwrites the disk three times.
    (r"^Sanitize\.Overwrite$", "256M", ()),
)
# Seconds that a test sleeps by itself: beside its limit. Sanitize.Reset sleeps for a minute where the disk is not overwritten at once, as none is.
SLEEPS = {"Sanitize.Reset": 60}


@dataclasses.dataclass
class Result:
    """What became of one test: `seconds` it took, `asserts` as "passed/all", and a note why it did not pass."""

    test: str
    verdict: str
    seconds: float = 0.0
    asserts: str = ""
    note: str = ""

    def reason_to_skip(self):
        """Why it may be skipped; None if it may not."""
        return next((why for pattern, why in SKIPS if re.search(pattern, _alone(self.test)) or re.search(pattern, self.note)), None)

    def is_wrong(self):
        """Whether it fails a run: it failed, or was skipped without a reason."""
        return self.verdict in BAD or (self.verdict == SKIP and self.reason_to_skip() is None)


def tests(listing):
    """The tests in what `iscsi-test-cu -l` prints, FAMILY.SUITE.TEST; one that several families list once, by the first of them."""
    found = {}
    for line in listing.splitlines():
        words = line.replace(" ", "").split(".")
        if len(words) == 3:
            found.setdefault((words[1], words[2]), ".".join(words))
    return list(found.values())


def suite_of(test):
    """The middle of FAMILY.SUITE.TEST."""
    return test.split(".")[1]


def _alone(test):
    """FAMILY.SUITE.TEST without its family."""
    return test.split(".", 1)[1]


def disk_of(test, block_size):
    """The size of the disk that a test gets, and further options of `lus lu create`."""
    size, options = next(((size, options) for pattern, size, options in DISKS if re.search(pattern, _alone(test))), DISK)
    return size, ("--block-size", str(block_size), *(word.format(block=block_size) for word in options))


def usual_disk(block_size):
    """The same of most tests."""
    return DISK[0], ("--block-size", str(block_size), *DISK[1])


def limit_of(test, limit):
    """Seconds that a test may take where `limit` is for most."""
    return limit + SLEEPS.get(_alone(test), 0)


def run(test, urls, *, limit, sanitize=True):
    """One test against `urls[0]`; a suite that takes two paths gets both. `limit` in seconds."""
    paths = urls if suite_of(test) == TWO_PATHS else urls[:1]
    argv = ["stdbuf", "-oL", "iscsi-test-cu", "--dataloss", *(["--allow-sanitize"] if sanitize else []), "-v", "-t", test, *paths]
    begun = time.monotonic()
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, check=False)
    except subprocess.TimeoutExpired as late:
        return Result(test, TIMEOUT, limit, "", f"no end within {limit} s: {_last((late.stdout or b'').decode(errors='replace'))}"), ""
    output = ended.stdout.decode(errors="replace")
    result = judge(test, ended.returncode, output)
    result.seconds = time.monotonic() - begun
    return result, output


def judge(test, status, output):
    """The verdict on one test by the program's exit status and all that it printed."""
    # Before this line it looks at the unit, and prints [SKIPPED] for what it does not find.
    at = output.find("Suite:")
    body = output[at:] if at >= 0 else ""
    ran, failed, asserts = _summary(body)
    if not ran:
        return Result(test, CRASH, note=f"exit status {status}: {_last(output)}")
    if failed:
        return Result(test, FAIL, asserts=asserts, note=_first(r"\[FAILED\] *(.*)", body) or _first(r"^ +1\. (.*)", body))
    if "[SKIPPED]" in body:
        return Result(test, SKIP, asserts=asserts, note=_first(r"\[SKIPPED\] *(.*)", body))
    if asserts == "0/0":
        return Result(test, SKIP, asserts=asserts, note="nothing asserted: " + _first(r"\[[A-Z]+\] *(.*)", body))
    return Result(test, PASS, asserts=asserts)


def judge_suite(family_and_suite, output):
    """The verdicts of a whole suite that ran in one process: {FAMILY.SUITE.TEST: verdict}."""
    parts = re.split(r"^ *Test: +(\S+?) *\.\.\.", output, flags=re.MULTILINE)
    verdicts = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        word = re.search(r"(passed|FAILED)", re.sub(r"\[FAILED\]", "", body))
        skipped = "[SKIPPED]" in body
        verdicts[f"{family_and_suite}.{name}"] = CRASH if not word else FAIL if word.group(1) == "FAILED" else SKIP if skipped else PASS
    return verdicts


def _summary(body):
    """Tests that ran, tests that failed, "asserts passed/all"."""
    row = re.search(r"^ *tests +(\d+) +(\d+) +(\d+) +(\d+)", body, re.MULTILINE)
    asserts = re.search(r"^ *asserts +(\d+) +(\d+) +(\d+) +(\d+)", body, re.MULTILINE)
    counted = f"{asserts.group(3)}/{asserts.group(2)}" if asserts else ""
    return (int(row.group(2)), int(row.group(4)), counted) if row else (0, 0, counted)


def _first(pattern, text):
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip()[:NOTE_CHARS] if found else ""


def _last(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:NOTE_CHARS] if lines else "no output"
