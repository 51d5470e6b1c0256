#!/usr/bin/python3 -Bs
"""libiscsi's conformance suite: every test of every family of iscsi-test-cu, one by one, each on a fresh disk and under a limit.

What disk a test gets, what may be skipped, and why, is said in qa/lib/test_cu.py. A test that fails, crashes or does not end within its limit fails this; so does one
that is skipped without a reason. The suite iSCSITMF runs once more as a whole, because one of its tests (LUNResetSimpleAsync) asserts before an answer can come
when it runs alone; there its verdict counts, here it does not. Sanitize.Reset sleeps for a minute without an answer to any NOP-In: the daemons must wait longer
(lus_nop_timeout). All rows go to the log.

Environment: STORE rbd (default) or ram; BLOCK_SIZE 512 (default) or 4096; TESTS a regular expression, all without it; LEAST how many must pass, 0; LIMIT seconds
for one test, 30."""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import test_cu  # noqa: E402

NAME = "conformance"
READY_SECONDS = 30
# The one that is not scored alone.
NOT_ALONE = "LUNResetSimpleAsync"
TMF_SUITE = "iSCSITMF"


@dataclasses.dataclass
class Disk:
    """A disk with a target of its own, so that no session is told of the others."""

    iqn: str
    name: str
    url: str


class Disks:
    """Fresh disks, one for each test: the next is made while a test runs."""

    def __init__(self, cluster, store, block_size):
        self.cluster, self.block_size = cluster, block_size
        self.iqn, self.name = f"{qa.IQN}:{NAME}-", "rbd/qa-cu-" if store == "rbd" else "ram:qa-cu-"
        self.portal = cluster.portals[0]
        self.sweep()
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.made = 0
        self.usual = test_cu.usual_disk(block_size)
        self.next = self.pool.submit(self._make, *self.usual)

    def take(self, test):
        """A disk that nobody used."""
        wanted = test_cu.disk_of(test, self.block_size)
        if wanted == self.usual:
            disk = self.next.result()
            self.next = self.pool.submit(self._make, *self.usual)
        else:
            disk = self.pool.submit(self._make, *wanted).result()
        served = ["iscsi-readcapacity16", disk.url]
        qa.await_true(f"{disk.url} is served", lambda: qa.run(served, check=False).returncode == 0, READY_SECONDS)
        return disk

    def drop(self, disk):
        """It is not needed any more."""
        self.pool.submit(self._remove, disk.iqn, [disk.name])

    def end(self):
        """Nothing of it is left."""
        self.pool.shutdown(wait=True)
        self.sweep()

    def sweep(self):
        """Removes what there is by these names, also what a run that was cut short has left."""
        for target in self.cluster.lus_json("target", "ls"):
            if target["iqn"].startswith(self.iqn):
                self._remove(target["iqn"], [])
        names = [lu["name"] for lu in self.cluster.lus_json("lu", "ls") if lu["name"].startswith(self.name)]
        for name in names:
            self.cluster.lus("lu", "rm", name, "--yes-i-really-mean-it")

    def _make(self, size, options):
        self.made += 1
        iqn, name = f"{self.iqn}{self.made}", f"{self.name}{self.made}"
        self.cluster.lus("target", "create", iqn, "--open")
        self.cluster.lus("lu", "create", name, size, *options)
        self.cluster.lus("lun", "map", iqn, name, "--lun", "0")
        return Disk(iqn, name, f"iscsi://{self.portal}/{iqn}/0")

    def _remove(self, iqn, names):
        self.cluster.lus("target", "rm", iqn, "--yes-i-really-mean-it")
        for name in names:
            self.cluster.lus("lu", "rm", name, "--yes-i-really-mean-it")


def run_all(disks, wanted, limit, rows):
    """Every test that matches `wanted`; appends results to `rows`."""
    listed = test_cu.tests(qa.run(["iscsi-test-cu", "-l"]).stdout)
    chosen = [test for test in listed if re.search(wanted, test)]
    qa.require(chosen, f"no test matches {wanted}")
    for number, test in enumerate(chosen, 1):
        disk = disks.take(test)
        result, _ = test_cu.run(test, [disk.url, disk.url], limit=test_cu.limit_of(test, limit))
        disks.drop(disk)
        if test.endswith("." + NOT_ALONE):
            result.verdict, result.note = in_its_suite(disks, test, limit), f"within {TMF_SUITE}; alone: {result.verdict}"
        rows.append(result)
        qa.say(f"{number:3}/{len(chosen)} {result.verdict:8}{test:60}{result.asserts:>8} {result.note}")


def in_its_suite(disks, test, limit):
    """The verdict on a test when all of its suite run in one process."""
    family_and_suite = test.rsplit(".", 1)[0]
    disk = disks.take(test)
    _, output = test_cu.run(family_and_suite, [disk.url], limit=3 * limit)
    disks.drop(disk)
    return test_cu.judge_suite(family_and_suite, output).get(test, test_cu.CRASH)


def report(rows, least):
    """The sums, and what is wrong."""
    count = collections.Counter(row.verdict for row in rows)
    qa.say(", ".join(f"{count[verdict]} {verdict}" for verdict in (test_cu.PASS, test_cu.SKIP, *test_cu.BAD)))
    wrong = [row for row in rows if row.is_wrong()]
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
