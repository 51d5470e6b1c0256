#!/usr/bin/python3 -B
"""Tests of how lus-load is run and checked, without a target: `qa/bench/test_load.py`."""

import importlib.machinery
import importlib.util
import json
import pathlib
import struct
import tempfile
import unittest
import unittest.mock

HERE = pathlib.Path(__file__).resolve().parent


def program():
    """qa/bench/load-check as a module."""
    loader = importlib.machinery.SourceFileLoader("load_check", str(HERE / "load-check"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("load_check", loader))
    loader.exec_module(module)
    return module


check = program()
qa = check.qa


def pdu(opcode, operation=0, data=b"", ahs=b""):
    """A PDU of an initiator."""
    header = bytearray(48)
    header[0], header[4], header[32] = opcode, len(ahs) // 4, operation
    header[5:8] = struct.pack(">I", len(data))[1:]
    return bytes(header) + ahs + data + bytes(-len(data) % 4)


class Counts(unittest.TestCase):
    def test_only_reads_and_writes_count(self):
        login, logout = pdu(0x43, data=b"InitiatorName=x\0"), pdu(0x46)
        commands = [pdu(0x01, 0x88), pdu(0x01, 0x28), pdu(0x01, 0x8A, b"data!"), pdu(0x01, 0x00), pdu(0x01, 0x9E), pdu(0x41, 0x88, ahs=bytes(8))]
        self.assertEqual(check.count_commands(b"".join([login, *commands, pdu(0x05, 0x88, b"x" * 5), logout])), (3, 1))

    def test_half_a_pdu_is_an_error(self):
        for cut in (1, 47, 50):
            with self.assertRaises(qa.Failed):
                check.count_commands((pdu(0x01, 0x88) + pdu(0x01, 0x8A, b"data"))[: 48 + cut])


class Judgement(unittest.TestCase):
    def test_a_difference_beyond_the_margin_fails(self):
        good = {"iops": 1.1, "p50_us": 0.9, "bytes_per_s": 1.0}
        check.agree(good, None)
        for key in good:
            for ratio in (0.8, 1.2):
                with self.assertRaises(qa.Failed):
                    check.agree({**good, key: ratio}, None)

    def test_the_cost_is_judged_on_lusd_alone(self):
        def cost(name, us, ratio):
            medians = {"fio": {"cpu_us": us / ratio}, "lus-load": {"cpu_us": us}}
            check.cheap(check.sides.Side(name), {"iops": 1, "cpu_us": ratio}, medians)

        cost("lusd", 1.9, 0.4)
        cost("tgt", 9, 1.1)
        for us, ratio in ((2.1, 0.4), (1.9, 0.6)):
            with self.assertRaises(qa.Failed):
                cost("lusd", us, ratio)


class Load(unittest.TestCase):
    """The class that runs lus-load, with a program in its place."""

    def load(self, folder, script):
        binary = pathlib.Path(folder) / "fake"
        binary.write_text(f"#!/bin/sh\n{script}\n")
        binary.chmod(0o755)
        module = check.LusLoad.__init__.__globals__
        with unittest.mock.patch.dict(module, {"lus_load_binary": lambda: binary, "Fio": lambda folder: None}):
            return check.LusLoad(pathlib.Path(folder))

    def test_a_run_and_what_it_cost(self):
        report = {"jobs": [{"cpu_us_per_io": 2.0, "read": {"total_ios": 500_000}, "write": {"total_ios": 0}}]}
        row, side, watched = check.rows.Row.parse("null-4k-randread-qd4-s2"), check.sides.Side("lusd", url="iscsi://h:1/iqn/0"), []
        with tempfile.TemporaryDirectory() as folder:
            load = self.load(folder, f"echo \"$@\" >{folder}/words; echo '{json.dumps(report)}'")
            outcome = load.run(row, side, 1, watched.append)
            words = (pathlib.Path(folder) / "words").read_text().split()
        self.assertEqual((outcome.cpu_s, outcome.job["read"]["total_ios"], len(watched)), (1.0, 500_000, 1))
        expected = ["--format=json", "--rw=randread", "--bs=4096", "--iodepth=4", "--sessions=2", f"--size={check.rows.SIZE}", side.url, "--runtime=1"]
        self.assertEqual(words, expected)

    def test_a_failure_says_what_the_program_said(self):
        row, side = check.rows.Row.parse("null-4k-randread-qd4"), check.sides.Side("lusd", url="iscsi://h:1/iqn/0")
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(qa.Failed, "it broke"):
            self.load(folder, "echo it broke >&2; exit 1").prepare(row, side)


if __name__ == "__main__":
    unittest.main()
