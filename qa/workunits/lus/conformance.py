#!/usr/bin/python3 -Bs
"""libiscsi's conformance suite: every test of every family of iscsi-test-cu, one by one, each on a fresh disk and under a limit.

The suite ReadOnly gets a read-only disk. A test that fails, crashes or does not end within the limit fails this; so does one that is skipped and has no reason in SKIPS. The suite iSCSITMF runs once more as a
whole, because one of its tests (LUNResetSimpleAsync) asserts before an answer can come when it runs alone; there its verdict counts, here it does not.
All rows go to the log.

Environment: STORE rbd (default) or ram; BLOCK_SIZE 512 (default) or 4096; TESTS a regular expression, all without it; LEAST how many must pass, 0; LIMIT seconds
for one test, 30."""

import collections
import concurrent.futures
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import test_cu  # noqa: E402

NAME = "conformance"
SIZE = "1G"
READY_SECONDS = 30
# The one that is not scored alone.
NOT_ALONE = "LUNResetSimpleAsync"
TMF_SUITE = "iSCSITMF"
# What may be skipped, by SUITE.TEST or by the note, and why.
SKIPS = (
    (r"^NoMedia\.", "needs a removable medium"),
    (r"^PreventAllow\.", "needs a removable medium"),
    (r"^StartStopUnit\.", "needs a removable medium"),
    (r"^Sanitize\.Crypto", "there is no key to erase"),
    (r"nothing asserted", "asserts nothing"),
)


# These get a disk that takes no writes.
READ_ONLY_SUITE = "ReadOnly"


class Disks:
    """Fresh disks, one for each test: the next is made while a test runs. Each has a target of its own, so that no session is told of the others."""

    def __init__(self, cluster, store, block_size):
        self.cluster, self.store, self.block_size = cluster, store, block_size
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.made = 0
        self.next = self.pool.submit(self._make)

    def take(self, test):
        """The URL of a disk that nobody used, and its target."""
        if test_cu.suite_of(test) == READ_ONLY_SUITE:
            target = self.pool.submit(self._make, "--read-only").result()
        else:
            target = self.next.result()
            self.next = self.pool.submit(self._make)
        url = target.url(0)
        qa.await_true(f"{url} is served", lambda: qa.run(["iscsi-readcapacity16", url], check=False).returncode == 0, READY_SECONDS)
        return url, target

    def drop(self, target):
        """It is not needed any more."""
        self.pool.submit(target.remove)

    def end(self):
        """Nothing of it is left."""
        self.pool.submit(lambda: self.next.result().remove()).result()
        self.pool.shutdown(wait=True)

    def _make(self, *options):
        self.made += 1
        target = qa.Target(self.cluster, f"{qa.IQN}:{NAME}-{self.made}")
        target.remove()
        self.cluster.lus("target", "create", target.iqn, "--open")
        name = f"rbd/qa-cu-{self.made}" if self.store == "rbd" else f"ram:qa-cu-{self.made}"
        target.create(name, SIZE, "--block-size", self.block_size, *options)
        return target


def reason_to_skip(result):
    """Why this skip is right; None if it is not."""
    suite_and_test = result.test.split(".", 1)[1]
    return next((why for pattern, why in SKIPS if re.search(pattern, suite_and_test) or re.search(pattern, result.note)), None)


def run_all(disks, wanted, limit, rows):
    """Every test that matches `wanted`; appends results to `rows`."""
    listed = test_cu.tests(qa.run(["iscsi-test-cu", "-l"]).stdout)
    chosen = [test for test in listed if re.search(wanted, test)]
    qa.require(chosen, f"no test matches {wanted}")
    for number, test in enumerate(chosen, 1):
        url, target = disks.take(test)
        result, _ = test_cu.run(test, [url, url], limit=limit)
        disks.drop(target)
        if test.endswith("." + NOT_ALONE):
            result.verdict, result.note = in_its_suite(disks, test, limit), f"within {TMF_SUITE}; alone: {result.verdict}"
        rows.append(result)
        qa.say(f"{number:3}/{len(chosen)} {result.verdict:8}{test:60}{result.asserts:>8} {result.note}")


def in_its_suite(disks, test, limit):
    """The verdict on a test when all of its suite run in one process."""
    family_and_suite = test.rsplit(".", 1)[0]
    url, target = disks.take(test)
    _, output = test_cu.run(family_and_suite, [url], limit=3 * limit)
    disks.drop(target)
    return test_cu.judge_suite(family_and_suite, output).get(test, test_cu.CRASH)


def report(rows, least):
    """The sums, and what is wrong."""
    count = collections.Counter(row.verdict for row in rows)
    qa.say(", ".join(f"{count[verdict]} {verdict}" for verdict in (test_cu.PASS, test_cu.SKIP, *test_cu.BAD)))
    wrong = [row for row in rows if row.verdict in test_cu.BAD or (row.verdict == test_cu.SKIP and reason_to_skip(row) is None)]
    for row in wrong:
        qa.say(f"{row.verdict}: {row.test}: {row.note}")
    qa.require(not wrong, f"{len(wrong)} tests failed, or were skipped without a reason: {', '.join(row.test for row in wrong)}")
    qa.require(count[test_cu.PASS] >= least, f"{count[test_cu.PASS]} tests passed, fewer than {least}")


def main():
    store, block_size = os.environ.get("STORE", "rbd"), os.environ.get("BLOCK_SIZE", "512")
    qa.require(store in ("rbd", "ram") and block_size in ("512", "4096"), f"STORE is {store}, BLOCK_SIZE is {block_size}")
    rows = []
    disks = Disks(qa.Cluster.given(), store, block_size)
    try:
        run_all(disks, os.environ.get("TESTS", "."), float(os.environ.get("LIMIT", "30")), rows)
    finally:
        disks.end()
    report(rows, int(os.environ.get("LEAST", "0")))


qa.run_check(main)
