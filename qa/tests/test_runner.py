#!/usr/bin/python3 -Bs
"""qa/run itself: what is planted in qa/tests/suites ends as it must. It takes about a minute; with `--quick`, without clusters, 20 s."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
import xml.etree.ElementTree

QA = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(QA / "lib"), str(QA.parent / "tools" / "lib")]
from teuth import runner  # noqa: E402

SUITES = QA / "tests" / "suites"
LAST_LINE = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped")


class Runs(unittest.TestCase):
    """One archive of its own for each test."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.archive = pathlib.Path(holder.name)

    def words(self, suite, *options):
        return [QA / "run", suite, "--suites", SUITES, "--no-build", "--archive", self.archive, *map(str, options)]

    def run_suite(self, suite, *options):
        """(exit status, what was printed, the counts of the last line)."""
        done = subprocess.run(self.words(suite, *options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found = LAST_LINE.fullmatch(done.stdout.rstrip().splitlines()[-1])
        self.assertTrue(found, done.stdout)
        return done.returncode, done.stdout, tuple(map(int, found.groups()))

    def require_failure(self, name, *words, suite="planted", options=()):
        status, printed, counts = self.run_suite(suite, "--filter", f"{suite}/{name}", *options)
        self.assertEqual((status, counts), (1, (0, 1, 0)), printed)
        for word in words:
            self.assertIn(word, printed)
        summary = next(self.archive.glob("*/summary.yaml")).read_text()
        self.assertIn("success: false", summary)
        self.assertIn("failure_reason:", summary)


class Archives(unittest.TestCase):
    """Of runs at the same time."""

    def test_logs_of_a_run_that_runs_on_are_not_old(self):
        with tempfile.TemporaryDirectory() as folder:
            runs = [pathlib.Path(folder) / str(number) for number in range(runner._RUNS_KEPT + 3)]
            for number, path in enumerate(runs):
                path.mkdir()
                os.utime(path, (number, number))
            with unittest.mock.patch.object(runner, "ARCHIVE", pathlib.Path(folder)), runner._locked(runs[0]):
                runner._forget_old_runs()
            self.assertEqual({path for path in runs if path.exists()}, {runs[0], *runs[-runner._RUNS_KEPT :]})


class Planted(Runs):
    """Without a cluster."""

    def test_a_workunit_that_fails(self):
        self.require_failure("fails", "Command failed (workunit test fails.sh) on local1 with status 3", "these are the last words")

    def test_a_hang(self):
        begun = time.monotonic()
        self.require_failure("hangs", "not done within the limit of 3 s", options=("--timeout", 3, "--filter-out", "timeout"))
        self.assertLess(time.monotonic() - begun, 30)
        self.assertEqual(processes_with(b"sleep\x00600"), [])

    def test_a_hang_within_the_limit(self):
        self.require_failure("hangs-with-timeout", "with status 124")

    def test_a_task_that_is_missing(self):
        self.require_failure("no-task", "tasks.no_such_task")

    def test_a_workunit_that_is_missing(self):
        self.require_failure("no-workunit", "Spec did not match any workunits: 'no_such_workunit.sh'")

    def test_a_package_that_is_missing(self):
        self.require_failure("no-package", "missing packages: lus-no-such-package")

    def test_a_process_that_is_left(self):
        self.require_failure("leaves", "left running: sleep 601")
        self.assertEqual(processes_with(b"sleep\x00601"), [])

    def test_a_key_that_nobody_knows(self):
        self.require_failure("unknown-key", "task ceph does not know no-such-key")

    def test_a_key_that_cannot_be_honoured(self):
        self.require_failure("refused-key", "cannot do what key valgrind")

    def test_an_environment_that_is_no_text(self):
        self.require_failure("number-in-env", "env BLOCK_SIZE must be text")

    def test_what_a_workunit_may_rely_on(self):
        status, printed, counts = self.run_suite("planted", "--filter", "planted/passes")
        self.assertEqual((status, counts), (0, (1, 0, 0)), printed)
        self.assertEqual({path.name for path in self.archive.glob("*/*")} & {"output.log"}, set())
        for name in ("orig.config.yaml", "config.yaml", "teuthology.log", "summary.yaml"):
            self.assertTrue(list(self.archive.glob(f"*/{name}")), name)

    def test_several_at_the_same_time_and_their_junit_xml(self):
        status, printed, counts = self.run_suite("planted", "--jobs", 2, "--filter", "fails", "--filter", "passes", "--junit", self.archive / "j.xml")
        self.assertEqual((status, counts), (1, (1, 1, 0)), printed)
        cases = xml.etree.ElementTree.parse(self.archive / "j.xml").getroot().findall("./testsuite/testcase")
        self.assertEqual({case.get("name"): case.find("failure") is not None for case in cases}, {"planted/fails": True, "planted/passes": False})
        self.assertIn("these are the last words?[H", "".join(case.findtext("failure", "") for case in cases))

    def test_nothing_to_run_is_no_success(self):
        status, _, counts = self.run_suite("planted", "--filter", "no such text")
        self.assertEqual(counts, (0, 0, 0))
        self.assertNotEqual(status, 0)

    def test_a_suite_that_is_missing(self):
        status, printed, counts = self.run_suite("no-such-suite")
        self.assertEqual((status, counts), (1, (0, 1, 0)))
        self.assertIn("there are cluster, planted", printed)

    def test_an_interruption_ends_everything(self):
        child = subprocess.Popen(self.words("planted", "--filter", "planted/hangs", "--filter-out", "timeout"), stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + 20
        while not processes_with(b"sleep\x00600") and time.monotonic() < end:
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        printed, _ = child.communicate(timeout=60)
        self.assertNotEqual(child.returncode, 0)
        self.assertIn("interrupted", printed)
        self.assertEqual(processes_with(b"sleep\x00600"), [])

    def test_an_override_is_merged_last(self):
        fragment = self.archive / "override.yaml"
        fragment.write_text("overrides: {workunit: {env: {FROM_OVERRIDES: '2'}}}\n")
        status, printed, counts = self.run_suite("planted", "--filter", "planted/passes", "--override", fragment)
        self.assertEqual((status, counts), (1, (0, 1, 0)), printed)

    def test_the_list_runs_nothing(self):
        done = subprocess.run(self.words("planted", "--list", "-f", "json"), stdout=subprocess.PIPE, check=True)
        self.assertIn("planted/fails", [job["description"] for job in json.loads(done.stdout)])
        self.assertEqual(list(self.archive.iterdir()), [])


class OnClusters(Runs):
    """With a cluster for each job."""

    def test_everything_that_the_stand_ins_can(self):
        status, printed, counts = self.run_suite("cluster", "--filter", "everything")
        self.assertEqual((status, counts), (0, (1, 0, 0)), printed)
        logs = {path.name for path in self.archive.glob("*/remote/log/*")}
        self.assertTrue({"mon.a.log", "osd.1.log", "cluster.log", "ceph-client.lus.a.log", "ceph-client.lus.b.log"} <= logs, logs)

    def test_a_daemon_that_does_not_end_well(self):
        self.require_failure("unclean-end", "lus.a", "status 1", suite="cluster")

    def test_an_error_in_the_cluster_log(self):
        self.require_failure("bad-log", "planted", "in cluster log", suite="cluster")

    def test_a_job_that_fails_while_a_daemon_is_cut_off(self):
        self.require_failure("cut-off", "with status 3", suite="cluster")
        log = next(self.archive.glob("*/teuthology.log")).read_text()
        self.assertNotIn("did not end", log)
        # The networks of a cluster carry its folder.
        folder = re.search(r"Starting a cluster with 1 OSDs in (\S+)", log)[1]
        self.assertNotIn(folder, subprocess.run(["ip", "link"], stdout=subprocess.PIPE, text=True, check=True).stdout)

    def test_an_osd_that_dies(self):
        self.require_failure("dead-osd", "ended by themselves: osd.0", suite="cluster")


def processes_with(words):
    """The pids of processes that have these words, separated by NUL, in their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and int(entry.name) != os.getpid() and words in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    if "--quick" in sys.argv:
        sys.argv.remove("--quick")
        del OnClusters
    unittest.main()
