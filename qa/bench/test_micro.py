#!/usr/bin/python3 -B
"""Tests of what qa/bench/micro does with counts, without counting: `qa/bench/test_micro.py`."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import pathlib
import tempfile
import types
import unittest
import unittest.mock

HERE = pathlib.Path(__file__).resolve().parent


def program():
    """qa/bench/micro as a module."""
    loader = importlib.machinery.SourceFileLoader("micro", str(HERE / "micro"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("micro", loader))
    loader.exec_module(module)
    return module


micro = program()


def line(program, function, bench, events):
    """A line of output of a program of benches."""
    total = {"metrics": {"Ir": {"values": {"new": events}}}}
    return json.dumps({
        "module_path": f"{program}::group::{function}", "function_name": function, "id": bench, "profiles": [{"data": {"total": total}}]
    })


class Counts(unittest.TestCase):
    def test_parse_takes_each_bench_and_no_other_line(self):
        output = "\n".join(["a warning", line("pdu", "build_x64", "plain", 640), line("pdu", "crc32c", "of_4k", 7)])
        self.assertEqual(micro.parse(output), {"pdu::build_x64.plain": 640, "pdu::crc32c.of_4k": 7})

    def test_one_share_of_many(self):
        rows = micro.compare({}, {"pdu::build_x64.plain": 640, "pdu::crc32c.of_4k": 7})
        self.assertEqual([row["each"] for row in rows], [10, 7])

    def test_the_last_line_names_the_greatest_and_the_least_change(self):
        rows = micro.compare({"a": 100, "b": 1000, "c": 10, "gone": 1}, {"a": 105, "b": 900, "c": 10, "new": 1})
        self.assertEqual(micro.summary(rows), "micro: worst +5.0 % (a), best -10.0 % (b)")
        self.assertEqual({row["bench"] for row in rows if None in (row["baseline"], row["now"])}, {"gone", "new"})


class Runs(unittest.TestCase):
    """Whole runs on counts that are given."""

    def run_micro(self, baseline, counts, *, save=False, only=None, format="text"):
        """The exit status (a Failure's text where there is one), what was printed, and the baseline afterwards."""
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            path = pathlib.Path(folder) / "micro.json"
            if baseline is not None:
                path.write_text(json.dumps({"schema": 1, "made_with": {"valgrind": "valgrind-1"}, "instructions": baseline}))
            fakes = {
                "ROOT": pathlib.Path(folder), "BASELINE": path, "PROGRAMS": ("p",), "_count": lambda _: counts, "_tools": lambda _: {"valgrind": "valgrind-2"},
                "_install_runner": lambda _: None, "_build": lambda _: None, "progress": lambda *_: None,
            }
            for name, fake in fakes.items():
                stack.enter_context(unittest.mock.patch.object(micro, name, fake))
            stack.enter_context(unittest.mock.patch.object(micro.build, "require_cargo", lambda: "cargo"))
            stack.enter_context(unittest.mock.patch.object(micro.packages, "ensure", lambda *_: None))
            printed = io.StringIO()
            stack.enter_context(contextlib.redirect_stdout(printed))
            try:
                status = micro._run(types.SimpleNamespace(save=save, only=only, format=format))
            except micro.Failure as failure:
                status = failure.what
            after = json.loads(path.read_text())["instructions"] if path.exists() else None
        return status, printed.getvalue(), after

    def test_a_change_is_told_and_not_judged(self):
        status, printed, _ = self.run_micro({"a": 100}, {"a": 200})
        self.assertEqual((status, printed.splitlines()[-1]), (0, "micro: worst +100.0 % (a), best +100.0 % (a)"))
        self.assertIn("note: valgrind is valgrind-2, the baseline was made with valgrind-1", printed)

    def test_new_and_gone_benches_fail_until_they_are_saved(self):
        status, _, after = self.run_micro({"a": 1, "old": 1}, {"a": 1, "fresh": 1})
        self.assertEqual((status, after), ("not as in the baseline: fresh is new, old is gone", {"a": 1, "old": 1}))
        status, _, after = self.run_micro({"a": 1, "old": 1}, {"a": 2, "fresh": 1}, save=True)
        self.assertEqual((status, after), (0, {"a": 2, "fresh": 1}))

    def test_without_a_baseline_everything_is_new(self):
        self.assertEqual(self.run_micro(None, {"a": 1})[0], "not as in the baseline: a is new")
        self.assertEqual(self.run_micro(None, {"a": 1}, save=True)[2], {"a": 1})

    def test_a_part_is_compared_and_saved_alone(self):
        self.assertEqual(self.run_micro({"a": 1, "b": 1}, {"a": 1}, only=["a"])[0], 0)
        self.assertEqual(self.run_micro({"a": 1, "b": 1}, {"a": 2, "b": 2}, only=["a"], save=True)[2], {"a": 2, "b": 1})
        self.assertEqual(self.run_micro({"a": 1}, {"a": 1}, only=["z"])[0], "no bench has z in its name")

    def test_json_has_every_row(self):
        _, printed, _ = self.run_micro({"a": 100}, {"a": 101}, format="json")
        self.assertEqual(json.loads(printed)["benches"], [{"bench": "a", "baseline": 100, "now": 101, "each": 101.0, "change_percent": 1.0}])


if __name__ == "__main__":
    unittest.main()
