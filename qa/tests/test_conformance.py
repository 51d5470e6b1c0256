#!/usr/bin/python3 -Bs
"""How iscsi-test-cu's words are read: a skip is no pass, and what does not get to a verdict has crashed."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import test_cu  # noqa: E402

PROBING = "    [SKIPPED] PERSISTENT RESERVE IN is not implemented.\n\n\n     CUnit - A unit testing framework for C - Version 2.1-3\n\n\n"
SUMMARY = """
Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests      1      {ran}      {passed}      {failed}        0
             asserts     {asserts}     {asserts}     {good}      {bad}      n/a
"""
TEST = "ALL.Read6.Simple"


def summary(failed=0, asserts=9, bad=0, ran=1):
    return SUMMARY.format(ran=ran, passed=ran - failed, failed=failed, asserts=asserts, good=asserts - bad, bad=bad)


class Listing(unittest.TestCase):
    def test_a_test_of_several_families_is_listed_once(self):
        listing = "ALL\nALL.Read6\nALL.Read6.Simple\n ALL.Read6.BeyondEol \r\nSCSI.Read6.Simple\niSCSI.iSCSITMF.Abort\n"
        self.assertEqual(test_cu.tests(listing), ["ALL.Read6.Simple", "ALL.Read6.BeyondEol", "iSCSI.iSCSITMF.Abort"])

    def test_the_suite_is_the_middle(self):
        self.assertEqual(test_cu.suite_of("ALL.MultipathIO.Reset"), test_cu.TWO_PATHS)


class Verdict(unittest.TestCase):
    def judged(self, output, status=0):
        result = test_cu.judge(TEST, status, output)
        return result.verdict, result.note

    def test_what_is_skipped_before_the_suite_begins_does_not_count(self):
        self.assertEqual(self.judged(f"{PROBING}Suite: Read6\n  Test: Simple ...passed\n{summary()}"), (test_cu.PASS, ""))

    def test_a_skip_is_not_a_pass(self):
        output = f"Suite: Read6\n  Test: Simple ...    [SKIPPED] READ6 is not implemented.\npassed\n{summary()}"
        self.assertEqual(self.judged(output), (test_cu.SKIP, "READ6 is not implemented."))

    def test_nothing_asserted_is_a_skip(self):
        output = f"Suite: Read6\n  Test: Simple ...[WARNING] Not supported\npassed\n{summary(asserts=0)}"
        self.assertEqual(self.judged(output), (test_cu.SKIP, "nothing asserted: Not supported"))

    def test_a_failure_says_where(self):
        output = f"Suite: Read6\n  Test: Simple ...FAILED\n    1. test_read6.c:35  - CU_ASSERT_EQUAL(ret,0)\n{summary(failed=1, bad=1)}"
        self.assertEqual(self.judged(output), (test_cu.FAIL, "test_read6.c:35  - CU_ASSERT_EQUAL(ret,0)"))
        self.assertEqual(self.judged(output.replace("...FAILED", "...    [FAILED] no sense\nFAILED"))[1], "no sense")

    def test_without_a_summary_it_crashed(self):
        self.assertEqual(self.judged(f"{PROBING}Suite: Read6\n  Test: Simple ...", -6), (test_cu.CRASH, "exit status -6: Test: Simple ..."))
        self.assertEqual(self.judged("Failed to log in to target.\n", 255), (test_cu.CRASH, "exit status 255: Failed to log in to target."))
        self.assertEqual(self.judged(f"Suite: Read6\n{summary(ran=0)}", 1)[0], test_cu.CRASH)
        self.assertEqual(self.judged("")[1], "exit status 0: no output")

    def test_a_whole_suite_is_taken_apart(self):
        output = (
            f"{PROBING}Suite: Read6\n  Test: Simple ...passed\n  Test: Eol ...    [FAILED] too long\nFAILED\n    1. x.c:1  - y\n"
            f"  Test: Zero ...    [SKIPPED] no\npassed\n  Test: Last ..."
        )
        verdicts = test_cu.judge_suite("ALL.Read6", output)
        expected = {"Simple": test_cu.PASS, "Eol": test_cu.FAIL, "Zero": test_cu.SKIP, "Last": test_cu.CRASH}
        self.assertEqual(verdicts, {f"ALL.Read6.{name}": verdict for name, verdict in expected.items()})


class Rules(unittest.TestCase):
    def wrong(self, suite_and_test, verdict, note=""):
        return test_cu.Result(f"ALL.{suite_and_test}", verdict, note=note).is_wrong()

    def test_a_skip_needs_a_reason(self):
        for test, note in (
            ("NoMedia.NoMediaSBC", "nothing asserted: "),
            ("PreventAllow.Eject", "Logical unit is not removable. Skipping test."),
            ("Sanitize.Readonly", "SANITIZE CRYPTO_ERASE is not implemented according to REPORT_SUPPORTED_OPCODES."),
            ("WriteSame16.ZeroBlocks", "WRITESAME16 does not support 0-blocks."),
        ):
            self.assertFalse(self.wrong(test, test_cu.SKIP, note), test)
        for test, note in (
            ("Sanitize.Readonly", "SANITIZE OVERWRITE is not implemented according to REPORT_SUPPORTED_OPCODES."),
            ("WriteSame16.ZeroBlocks", "WRITESAME16 is not implemented."),
            ("CompareAndWrite.InvalidDataOutSize", "LBPPB < 2. Skipping test"),
            ("Reserve6.TargetColdReset", "Task Management functionfor ColdReset is not working/implemented"),
        ):
            self.assertTrue(self.wrong(test, test_cu.SKIP, note), test)

    def test_no_reason_excuses_what_failed(self):
        for verdict in test_cu.BAD:
            self.assertTrue(self.wrong("PreventAllow.Eject", verdict, "nothing asserted"))
        self.assertFalse(self.wrong("Read6.Simple", test_cu.PASS))

    def test_some_tests_get_a_disk_of_their_own(self):
        for test, block_size, expected in (
            ("Read6.Simple", 512, ("1G", ("--block-size", "512"))),
            ("ReadOnly.ReadOnlySBC", 4096, ("1G", ("--block-size", "4096", "--read-only"))),
            ("GetLBAStatus.UnmapSingle", 512, ("1G", ("--block-size", "512", "--physical-block-size", "512"))),
            ("WriteSame10.UnmapUnaligned", 4096, ("1G", ("--block-size", "4096", "--physical-block-size", "16384"))),
            ("Sanitize.OverwriteReserved", 4096, test_cu.usual_disk(4096)),
        ):
            self.assertEqual(test_cu.disk_of(f"ALL.{test}", block_size), expected)
        self.assertEqual(test_cu.disk_of("ALL.Sanitize.Overwrite", 512)[0], "256M")

    def test_who_sleeps_may_take_longer(self):
        self.assertEqual([test_cu.limit_of(f"ALL.Sanitize.{test}", 30) for test in ("Overwrite", "Reset")], [30, 90])


if __name__ == "__main__":
    unittest.main()
