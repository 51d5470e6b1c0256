"""Tests of the tools' own modules: `/usr/bin/python3 -B -m unittest test_tools` in this folder."""

import contextlib
import io
import os
import pathlib
import signal
import tempfile
import time
import unittest
import unittest.mock

import layout
import network
import packages
import procs
import steps
import vstart
from steps import Outcome, Step


class Steps(unittest.TestCase):
    """Counts and exit status say what happened, whatever happened."""

    def setUp(self):
        self.logs = tempfile.TemporaryDirectory()
        self.addCleanup(self.logs.cleanup)

    def run_all(self, *plan, ready=lambda context: None):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = steps.run_all(list(plan), pathlib.Path(self.logs.name), ready)
        return status, printed.getvalue()

    def shell(self, script, judge=steps.by_status, limit=20):
        return Step(
            "step", lambda context: steps.run_command(context, ["sh", "-c", script], dict(os.environ), limit, judge)
        )

    def test_all_pass(self):
        status, printed = self.run_all(self.shell("true"), self.shell("exit 0"))
        self.assertEqual(status, 0)
        self.assertEqual(printed.splitlines()[-1], "2 passed, 0 failed, 0 skipped")

    def test_one_failure_fails_everything_and_shows_its_log(self):
        status, printed = self.run_all(self.shell("true"), self.shell("echo why; exit 3"), self.shell("exit 0"))
        self.assertEqual(status, 1)
        self.assertEqual(printed.splitlines()[-1], "2 passed, 1 failed, 0 skipped")
        self.assertIn("why", printed)
        self.assertIn("exited with 3", printed)

    def test_a_step_over_its_limit_fails_and_its_children_end(self):
        begun = time.monotonic()
        status, printed = self.run_all(self.shell("sleep 60 & sleep 60", limit=0.3))
        self.assertLess(time.monotonic() - begun, 10)
        self.assertEqual((status, printed.splitlines()[-1]), (1, "0 passed, 1 failed, 0 skipped"))

    def test_the_last_line_is_counted(self):
        status, printed = self.run_all(self.shell("echo '3 passed, 0 failed, 0 skipped'", steps.by_last_line))
        self.assertEqual((status, printed.splitlines()[-1]), (0, "3 passed, 0 failed, 0 skipped"))
        status, printed = self.run_all(self.shell("echo '3 passed, 2 failed, 1 skipped'; exit 1", steps.by_last_line))
        self.assertEqual((status, printed.splitlines()[-1]), (1, "3 passed, 2 failed, 1 skipped"))
        for script in ("echo '3 passed, 0 failed, 0 skipped'; exit 1", "echo '0 passed, 0 failed, 0 skipped'", "echo '1 passed, 0 failed, 0 skipped'; echo oh"):
            self.assertEqual(self.run_all(self.shell(script, steps.by_last_line))[0], 1, script)

    def test_test_results_are_counted_one_by_one(self):
        script = """
            echo 'test a::b ... ignored, needs a reason'
            echo 'test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.0s'
            echo 'test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s'
            exit 101"""
        status, printed = self.run_all(self.shell(script, steps.by_test_results))
        self.assertEqual((status, printed.splitlines()[-1]), (1, "7 passed, 3 failed, 1 skipped"))
        self.assertIn("a::b", printed)

    def test_a_build_error_is_a_failure_without_tests(self):
        status, printed = self.run_all(self.shell("echo error; exit 101", steps.by_test_results))
        self.assertEqual((status, printed.splitlines()[-1]), (1, "0 passed, 1 failed, 0 skipped"))

    def test_no_test_at_all_is_a_failure(self):
        status, printed = self.run_all(self.shell("echo nothing to do", steps.by_test_results))
        self.assertEqual((status, printed.splitlines()[-1]), (1, "0 passed, 1 failed, 0 skipped"))

    def test_a_killed_test_program_is_a_failure_beside_tests_that_passed(self):
        script = "echo 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured'; exit 101"
        status, printed = self.run_all(self.shell(script, steps.by_test_results))
        self.assertEqual((status, printed.splitlines()[-1]), (1, "5 passed, 1 failed, 0 skipped"))

    def test_without_a_cluster_its_steps_are_skipped_with_the_reason(self):
        step = self.shell("true")
        step.cluster = True
        status, printed = self.run_all(step, ready=lambda context: Outcome(skipped=1, reason="no cluster"))
        self.assertEqual((status, printed.splitlines()[-1]), (0, "0 passed, 0 failed, 1 skipped"))
        self.assertIn("no cluster", printed)

    def test_a_step_that_breaks_is_a_failure_and_the_others_run(self):
        def broken(context):
            raise FileNotFoundError("nothing there")

        status, printed = self.run_all(Step("broken", broken), self.shell("true"))
        self.assertEqual((status, printed.splitlines()[-1]), (1, "1 passed, 1 failed, 0 skipped"))
        self.assertIn("nothing there", printed)


class Layout(unittest.TestCase):
    """Each rule can fail."""

    def test_planted_offences(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("lusd/src", "lusd/ceph/src", "tools", "qa"):
                (root / name).mkdir(parents=True)
            (root / "lusd/src/long.rs").write_text("//\n" * 801)
            (root / "lusd/src/tested.rs").write_text("//\n" * 700 + "\n#[cfg(test)]\nmod tests {\n" + "//\n" * 700 + "}\n")
            (root / "lusd/src/bad.rs").write_text("fn f() { unsafe { g() } }\n")
            (root / "lusd/ceph/src/good.rs").write_text("fn f() { unsafe { g() } }\n")
            (root / "lusd/src/lib.rs").write_text("//! No forbid.\n")
            (root / "tools/broken").write_text("#!/bin/sh\nif true; then\n")
            (root / "tools/broken").chmod(0o755)
            (root / "tools/broken.py").write_text("def f(:\n")
            (root / "qa/plain").write_text("#!/bin/sh\n")
            target = {"kind": ["lib"], "src_path": str(root / "lusd/src/lib.rs")}
            metadata = {
                "packages": [
                    {"name": "lusd-iscsi", "targets": [target], "dependencies": [{"name": "tokio", "kind": None}]},
                    {"name": "lusd-scsi", "targets": [], "dependencies": [{"name": "tokio", "kind": "dev"}]},
                ]
            }
            found = layout.problems(root, metadata)
        expected = ["bad.rs: unsafe", "long.rs: 801", "qa/plain", "tools/broken:", "tools/broken.py", "lib.rs: lacks", "iscsi depends"]
        for part in expected:
            self.assertEqual(sum(part in problem for problem in found), 1, (part, found))
        self.assertEqual(len(found), len(expected), found)


class Packages(unittest.TestCase):
    """QEMU's two packages are asked for at one version."""

    def specify(self, names, versions, installed, candidate):
        replaced = {"_versions": versions.get, "_installed": installed.get, "_candidate": candidate.get}
        with contextlib.ExitStack() as stack:
            for name, replacement in replaced.items():
                stack.enter_context(unittest.mock.patch.object(packages, name, replacement))
            return packages._specify(names)

    def test_the_installed_version_is_kept_where_both_can_have_it(self):
        both = {"qemu-utils": ["8", "7"], "qemu-block-extra": ["8", "7"]}
        got = self.specify(["make", "qemu-block-extra"], both, {"qemu-utils": "8"}, {"qemu-block-extra": "7"})
        self.assertEqual(got, ["make", "qemu-utils=8", "qemu-block-extra=8"])

    def test_else_both_come_in_the_candidate_of_the_drivers(self):
        versions = {"qemu-utils": ["8", "7"], "qemu-block-extra": ["7"]}
        got = self.specify(["qemu-block-extra"], versions, {"qemu-utils": "8"}, {"qemu-block-extra": "7"})
        self.assertEqual(got, ["qemu-utils=7", "qemu-block-extra=7"])

    def test_other_packages_stay_as_they_are(self):
        self.assertEqual(self.specify(["gcc", "make"], {}, {}, {}), ["gcc", "make"])

    def test_without_package_lists_apt_chooses(self):
        none = {"qemu-utils": [], "qemu-block-extra": []}
        self.assertEqual(self.specify(["qemu-utils"], none, {}, {}), ["qemu-utils", "qemu-block-extra"])


class Procs(unittest.TestCase):
    """A process is found again by another vstart, and ends when told."""

    def test_start_find_stop(self):
        with tempfile.TemporaryDirectory() as folder:
            record, output = f"{folder}/x.proc", f"{folder}/x.out"
            process = procs.Process("x", record, output)
            process.start(["sh", "-c", "echo $CEPH_ARGS begun; exec sleep 60"])
            again = procs.Process("x", record, output)
            self.assertEqual(again.pid(), process.child.pid)
            self.assertEqual(procs.stop([again], 10), [])
            self.assertIsNone(again.pid())
            self.assertEqual(process.child.wait(), -signal.SIGTERM)

    def test_one_that_ignores_sigterm_is_killed_and_named(self):
        with tempfile.TemporaryDirectory() as folder:
            process = procs.Process("x", f"{folder}/x.proc", f"{folder}/x.out")
            process.start(["/usr/bin/python3", "-c", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(60)"])
            while not process.output.read_text():
                time.sleep(0.01)
            self.assertEqual(procs.stop([process], 0.2), ["x"])
            self.assertEqual(process.child.wait(), -signal.SIGKILL)


class Networks(unittest.TestCase):
    """Hosts of their own; qa/checks/vstart-hosts makes some."""

    def test_no_two_share_an_address(self):
        hosts = [(name, number, id_) for name in network.NETWORKS for number in network.NUMBERS for id_ in (None, *network.IDS)]
        for of in (network.address, network._mac):
            self.assertEqual(len({of(*host) for host in hosts}), len(hosts))
        self.assertEqual((network.address("ceph", 7), network.address("public", 254, "z")), ("198.18.7.1", "198.19.254.35"))

    def test_names_are_short_enough_for_the_kernel(self):
        self.assertLess(len(f"lus{max(network.NUMBERS)}z-{max(network.NETWORKS, key=len)}"), 16)

    def test_whose_they_are(self):
        mine = network.Network("/tmp/mine", "1-2")
        self.assertTrue(mine._is_mine("lus-vstart:1-2:/tmp/other"))
        self.assertFalse(mine._is_mine("lus-vstart:1-3:/tmp/mine"))
        self.assertTrue(network.Network("/tmp/mine")._is_mine("lus-vstart:1-3:/tmp/mine"))
        for stranger in ("", "lus-vstart", "uplink", "lus-vstart:1-3:/tmp/mine2"):
            self.assertFalse(network.Network("/tmp/mine")._is_mine(stranger))

    def test_who_cannot_is_told_why(self):
        with unittest.mock.patch.object(network.os, "geteuid", return_value=1000), self.assertRaisesRegex(network.Failure, "only root"):
            network.require()
        with unittest.mock.patch.object(network.os, "geteuid", return_value=0), unittest.mock.patch.object(network.shutil, "which", return_value=None):
            with self.assertRaisesRegex(network.Failure, "iproute2.*util-linux"):
                network.require()
        done = unittest.mock.Mock(returncode=1, stderr="Device does not exist\nCommand failed -:2")
        with unittest.mock.patch.object(network, "_run", return_value=done), self.assertRaisesRegex(network.Failure, "`ip second one`: Device"):
            network._batch(["first one", "second one", "third one"])
        for said, todo in (("RTNETLINK answers: Operation not permitted", "CAP_NET_ADMIN"), ("Error: Unknown device type.", "kernel")):
            with self.assertRaises(network.Failure) as caught:
                network._fail(["link"], unittest.mock.Mock(stderr=said))
            self.assertIn(todo, caught.exception.todo)


class Options(unittest.TestCase):
    """Words on the command line."""

    def test_sizes(self):
        self.assertEqual(vstart._bytes("16G"), 16 << 30)
        self.assertEqual(vstart._bytes("1t"), 1 << 40)
        for wrong in ("16", "1G", "x", "-5G", "1.5T"):
            with self.assertRaises(vstart.argparse.ArgumentTypeError):
                vstart._bytes(wrong)

    def test_addresses(self):
        self.assertEqual(vstart._address("192.0.2.1"), "192.0.2.1")
        self.assertEqual(vstart._address("::1"), "[::1]")
        self.assertEqual(vstart._address("[::1]"), "[::1]")
        for wrong in ("0.0.0.0", "::", "host", ""):
            with self.assertRaises(vstart.argparse.ArgumentTypeError):
                vstart._address(wrong)

    def test_pools(self):
        self.assertEqual(vstart._pool("a.b-c_1"), "a.b-c_1")
        for wrong in (".lus", "a b", "", "a/b"):
            with self.assertRaises(vstart.argparse.ArgumentTypeError):
                vstart._pool(wrong)

if __name__ == "__main__":
    unittest.main()
