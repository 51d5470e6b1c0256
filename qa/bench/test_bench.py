#!/usr/bin/python3 -B
"""Tests of the bench's own arithmetic and parts, without a cluster: `qa/bench/test_bench.py`."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import unittest.mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
sys.path.insert(0, str(HERE.parents[1] / "tools" / "lib"))
import qa  # noqa: E402
from bench import figures, load, measurement, perf, plot, probe, report, rows, sides, spdk  # noqa: E402
from bench.rows import Row  # noqa: E402


def program():
    """qa/bench/run as a module."""
    loader = importlib.machinery.SourceFileLoader("bench_run", str(HERE / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


def measured(iops=1000.0, cpu=10.0, **more):
    """Figures of one measurement."""
    return {**dict.fromkeys(figures.METRICS, 1.0), "iops": iops, "cpu_us": cpu, "osd_cpu_us": None, "threads": {"lusd": 1}, **more}


class Rows(unittest.TestCase):
    """Names are exact, and the table is what was agreed on."""

    def test_the_table(self):
        names = [row.name for row in rows.ROWS]
        wanted = [f"{b}-4k-{op}-qd{d}" for b in ("null", "ram", "rbd") for op in ("randread", "randwrite") for d in (1, 32)]
        wanted += [f"{b}-256k-{op}-qd8" for b in ("null", "ram", "rbd") for op in ("read", "write")] + ["null-4k-randread-qd16-s4"]
        self.assertEqual(sorted(names), sorted(wanted))
        self.assertEqual(len(names), 19)

    def test_every_name_comes_back(self):
        for row in rows.ROWS:
            self.assertEqual(Row.parse(row.name), row)

    def test_what_is_no_row(self):
        bad = ["", "null", "null-4k-randread", "disk-4k-randread-qd1", "null-4k-trim-qd1", "null-4k-randread-qd0", "null-4k-randread-qd129", "null-3k-randread-qd1"]
        bad += ["null-4k-randread-qd1-s1", "null-4k-randread-qd1-s0", "null-4k-randread-qd01", "null-4k-randread-qd1-s65", "null-4m-read-qd1", "null-2048k-read-qd1", "x null-4k-randread-qd1"]
        for name in bad:
            with self.assertRaises(rows.BadRow, msg=name):
                Row.parse(name)

    def test_globs_keep_the_tables_order_and_name_each_row_once(self):
        chosen = rows.choose(["rbd-*-qd8", "null-4k-randread-qd32", "rbd-256k-*"])
        self.assertEqual([row.name for row in chosen], ["null-4k-randread-qd32", "rbd-256k-read-qd8", "rbd-256k-write-qd8"])
        self.assertEqual(rows.choose([]), list(rows.ROWS))

    def test_a_row_of_ones_own(self):
        self.assertEqual([row.name for row in rows.choose(["rbd-8k-randread-qd64-s2"])], ["rbd-8k-randread-qd64-s2"])

    def test_what_fits_nothing_is_an_error(self):
        for pattern in ("rbd-5*", "rbd", "null-4k-randread-qd1000"):
            with self.assertRaises(rows.BadRow, msg=pattern):
                rows.choose([pattern])

    def test_fio_words(self):
        words = Row.parse("null-256k-write-qd8-s4").fio_words()
        for word in ("--rw=write", "--bs=256k", "--iodepth=8", "--numjobs=4", f"--size={256 << 20}", "--norandommap", "--group_reporting"):
            self.assertIn(word, words)


class Figures(unittest.TestCase):
    """The median of the rounds' ratios, not the ratio of the medians; no round is left out."""

    def test_ratio_is_the_median_of_the_rounds(self):
        # The machine is four times as fast in the second round: only ratios within a round mean something.
        a, b = ([measured(iops) for iops in values] for values in ((100, 800, 150), (200, 800, 100)))
        pair = figures.ratios({"a": a, "b": b})["a/b"]
        self.assertEqual(pair["ratio"], {"median": 1.0, "rounds": [0.5, 1.0, 1.5]})

    def test_cpu_is_compared_by_operation(self):
        pair = figures.ratios({"a": [measured(cpu=2.0)], "b": [measured(cpu=8.0)]})["a/b"]
        self.assertEqual(pair["cpu"]["median"], 0.25)

    def test_every_pair_in_the_sides_order(self):
        self.assertEqual(list(figures.ratios({"lusd": [measured()], "tgt": [measured()], "librbd": [measured()]})), ["lusd/tgt", "lusd/librbd", "tgt/librbd"])

    def test_a_round_that_lacks_is_an_error(self):
        with self.assertRaises(ValueError):
            figures.ratios({"a": [measured()] * 3, "b": [measured()] * 2})
        with self.assertRaises(ValueError):
            figures.ratios({"a": [], "b": []})

    def test_summary(self):
        summary = figures.summary([measured(iops) for iops in (5, 1, 3, 9, 7)])
        self.assertEqual(summary["iops"], {"min": 1, "median": 5, "max": 9})
        self.assertIsNone(summary["osd_cpu_us"])

    def test_each_round_begins_with_another_side(self):
        self.assertEqual([figures.order(["a", "b", "c"], number) for number in range(4)], [list("abc"), list("bca"), list("cab"), list("abc")])

    def judged(self, cpu, ratio):
        both = {"ratio": {"median": ratio, "rounds": [ratio]}, "cpu": {"median": cpu, "rounds": [cpu]}}
        return {item["goal"]: item["met"] for item in figures.judge({"null-4k-randread-qd32": {"pairs": {"lusd/tgt": both}}})}

    def test_goals(self):
        good, bad = self.judged(0.5, 1.0), self.judged(0.51, 0.99)
        self.assertTrue(good["cpu null-4k-randread-qd32 lusd/tgt <= 0.5"] and good["ratio null-4k-randread-qd32 lusd/tgt >= 1.0"])
        self.assertEqual([met for met in bad.values() if met is not None], [False, False])
        self.assertEqual(list(good.values()).count(None), len(figures.GOALS) - 2)

    def test_goals_name_rows_of_the_table(self):
        for goal in figures.GOALS:
            self.assertIn(Row.parse(goal.row), rows.ROWS)


class Report(unittest.TestCase):
    """What is printed and stored."""

    def setUp(self):
        both = {"lusd": [measured(200), measured(300), measured(100)], "tgt": [measured(100, 40.0), measured(100, 20.0), measured(100, 20.0)]}
        self.rows = {"null-4k-randread-qd32": report.row_result(both, [["lusd", "tgt"], ["tgt", "lusd"], ["lusd", "tgt"]])}

    def test_lines(self):
        self.assertEqual(report.ratio_lines(self.rows), "ratio null-4k-randread-qd32 lusd/tgt 2.00\ncpu null-4k-randread-qd32 lusd/tgt 0.50")

    def test_goal_lines(self):
        lines = report.goal_lines(figures.judge(self.rows)).splitlines()
        self.assertEqual(lines[0], "target cpu null-4k-randread-qd32 lusd/tgt <= 0.5: 0.50 met")
        self.assertEqual(lines[-1], "target ratio rbd-256k-read-qd8 lusd/librbd >= 0.8: not measured")

    def test_the_table_has_least_median_and_most(self):
        self.assertIn("200 [100..300]", report.table(self.rows))

    def test_noise(self):
        self.assertIn("2 % of one core in the median (a quiet machine)", report.noise_line(self.rows))
        loud = {"x": report.row_result({"lusd": [measured(other_percent=90.0)]}, [["lusd"]])}
        self.assertIn("91 % of one core in the median (too much", report.noise_line(loud))

    def test_results_hold_every_round(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            report.write(path, {"commit": "x"}, self.rows, complete=True)
            stored = json.loads(path.read_text())
        self.assertEqual((stored["schema"], stored["complete"], stored["commit"]), (report.SCHEMA, True, "x"))
        self.assertEqual([r["iops"] for r in stored["rows"]["null-4k-randread-qd32"]["sides"]["lusd"]["rounds"]], [200, 300, 100])

    @unittest.skipUnless(list(pathlib.Path("/usr/lib/python3/dist-packages").glob("pygal")), "python3-pygal is not installed")
    def test_the_charts(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = plot.draw(pathlib.Path(folder), self.rows)
            self.assertEqual([path.name for path in paths], ["iops.svg", "cpu.svg"])
            text = paths[0].read_text()
        self.assertIn("null-4k-randread-qd32", text)
        self.assertIn("2.00", text)
        self.assertNotIn("<script xlink", text)


class CommandLine(unittest.TestCase):
    """What is wrong is said before anything is started."""

    def setUp(self):
        self.program = program()

    def refused(self, *words):
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as end:
            self.program.parse(words)
        self.assertEqual(end.exception.code, 2)
        return said.getvalue()

    def test_standard_and_quick(self):
        for words, wanted in (((), (5, 5)), (("--quick",), (3, 3)), (("--quick", "--rounds", "7"), (7, 3)), (("--runtime", "1"), (5, 1))):
            options = self.program.parse(words)
            self.assertEqual((options.rounds, options.runtime), wanted)
        self.assertEqual(options.sides, ["lusd", "tgt", "librbd"])

    def test_refusals(self):
        self.assertIn("fits no row", self.refused("--only", "x*"))
        self.assertIn("below 1", self.refused("--rounds", "0"))
        self.assertIn("none of", self.refused("--sides", "lusd,scst"))
        self.assertIn("twice", self.refused("--sides", "lusd,lusd"))
        self.assertIn("needs --spdk", self.refused("--sides", "lusd,spdk"))
        self.assertIn("there is no", self.refused("--spdk", "/nowhere"))
        self.assertIn("has null", self.refused("--sides", "librbd"))

    def test_who_needs_a_cluster(self):
        needs = lambda *words: self.program.needs_cluster(self.program.parse(words))  # noqa: E731
        self.assertTrue(needs("--only", "null-*"))
        self.assertFalse(needs("--only", "null-*", "--sides", "tgt,tgt-2"))
        self.assertTrue(needs("--only", "rbd-*", "--sides", "tgt,tgt-2"))


class FakeLoad:
    """A load that reports what a test says, and has that many connections open in its middle."""

    def __init__(self, portal, sessions=1, job=None):
        self.portal, self.sessions, self.prepared = portal, sessions, 0
        self.job = {"read": {"total_ios": 1000, "iops": 500.0, "bw_bytes": 2048000, "runtime": 2000, "lat_ns": latency(2e6)}, **(job or {})}

    def prepare(self, row, side):
        self.prepared += 1

    def run(self, row, side, runtime, watch):
        with contextlib.ExitStack() as stack:
            for _ in range(self.sessions):
                stack.enter_context(socket.create_connection(self.portal))
            watch(os.getpid())
        return load.Outcome(self.job, 0.004)


def latency(mean_ns):
    """fio's latency section."""
    return {"mean": mean_ns, "percentile": {"50.000000": 1_500_000, "99.000000": 9_000_000}}


class Measurement(unittest.TestCase):
    """A measurement is what the row says, or it is refused."""

    def setUp(self):
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.addCleanup(listener.close)
        self.address = listener.getsockname()
        self.side = sides.Side("tgt", os.getpid(), f"iscsi://127.0.0.1:{self.address[1]}/iqn.x/1")

    def measure(self, row, load_):
        return measurement.measure(Row.parse(row), self.side, load_, 1, [])

    def test_figures(self):
        result = self.measure("null-4k-randread-qd1", FakeLoad(self.address))
        self.assertEqual((result["iops"], result["p50_us"], result["p99_us"], result["connections"]), (500.0, 1500.0, 9000.0, 1))
        self.assertAlmostEqual(result["fio_cpu_us"], 4.0)
        self.assertGreater(result["cpu_us"], 0)
        self.assertAlmostEqual(result["cpu_us"] * result["iops_per_core"], 1e6, places=3)
        self.assertEqual(set(figures.METRICS) - set(result), set())

    def test_sessions_are_counted_at_the_target(self):
        deep = {"read": {"total_ios": 1000, "iops": 500.0, "bw_bytes": 1, "runtime": 2000, "lat_ns": latency(16 * 4 * 2e6)}}
        self.assertEqual(self.measure("null-4k-randread-qd16-s4", FakeLoad(self.address, 4, deep))["connections"], 4)
        for sessions in (3, 5):
            with self.assertRaisesRegex(qa.Failed, f"{sessions} connections .*not 4"):
                self.measure("null-4k-randread-qd16-s4", FakeLoad(self.address, sessions, deep))

    def test_a_depth_that_was_not_reached_is_refused(self):
        with self.assertRaisesRegex(qa.Failed, "1.0 requests in flight in the mean, not 32"):
            self.measure("null-4k-randread-qd32", FakeLoad(self.address))

    def test_no_request_is_refused(self):
        with self.assertRaisesRegex(qa.Failed, "no request"):
            self.measure("null-4k-randread-qd1", FakeLoad(self.address, 1, {"read": {"total_ios": 0, "iops": 0, "lat_ns": latency(0)}}))

    def test_the_direct_side_has_the_loads_cpu_and_no_connection(self):
        direct = sides.Side("librbd", image="rbd/x")
        result = measurement.measure(Row.parse("rbd-4k-randread-qd1"), direct, FakeLoad(self.address, 0), 1, [os.getpid()])
        self.assertEqual((result["cpu_us"], result["connections"]), (result["fio_cpu_us"], 0))
        self.assertGreater(result["osd_cpu_us"], 0)


class Probe(unittest.TestCase):
    """The kernel's figures."""

    def test_cpu_of_a_process_in_fine_steps(self):
        before, end = probe.cpu_seconds(os.getpid()), time.process_time() + 0.02
        while time.process_time() < end:
            pass
        self.assertAlmostEqual(probe.cpu_seconds(os.getpid()) - before, 0.02, delta=0.01)

    def test_a_process_that_is_gone(self):
        child = subprocess.Popen(["true"])
        child.wait()
        for look in (probe.cpu_seconds, probe.threads, lambda pid: probe.connections(pid, "127.0.0.1:1")):
            with self.assertRaisesRegex(qa.Failed, "is gone"):
                look(child.pid)

    def test_busy_time_grows_and_threads_are_counted(self):
        before = probe.machine_seconds()
        sum(range(3_000_000))
        after = probe.machine_seconds()
        self.assertGreater(after[0], before[0] - 1e-9)
        self.assertGreaterEqual(sum(probe.threads(os.getpid()).values()), 1)


FAKE_FIO = """\
#!/usr/bin/python3 -Bs
import json, sys, time
open({record!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
if {fails}:
    print("iscsi: request failed")
    sys.exit({fails})
if "--time_based" in sys.argv:
    time.sleep(0.8)
job = {{"error": {error}, "read": {{}}}}
print("fio: a remark first")
print(json.dumps({{"jobs": [job]}}))
"""


class Load(unittest.TestCase):
    """fio as a process: its words, its failures, its processor time."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.side = sides.Side("tgt", 1, "iscsi://127.0.0.1:3260/iqn.x:y/1")
        self.row = Row.parse("null-4k-randread-qd1")

    def fio(self, fails=0, error=0):
        path = self.folder / "fio"
        path.write_text(FAKE_FIO.format(record=str(self.folder / "words"), fails=fails, error=error))
        path.chmod(0o755)
        with unittest.mock.patch.object(qa, "fio_binary", lambda: str(path)):
            return load.Fio(self.folder)

    def test_the_same_words_and_what_differs(self):
        fio, seen = self.fio(), []
        for side in (self.side, sides.Side("librbd", image="rbd/x")):
            fio.prepare(self.row, side)
            fio.prepare(self.row, side)
            outcome = fio.run(self.row, side, 1, seen.append)
            self.assertEqual(outcome.job["error"], 0)
            self.assertLess(outcome.cpu_s, 0.5)
        lines = (self.folder / "words").read_text().splitlines()
        self.assertEqual(len(lines), 4)  # one start for each side, one run
        self.assertIn("--number_ios=1", lines[0])
        self.assertIn(r"--ioengine=libiscsi --filename=iscsi\://127.0.0.1\:3260/iqn.x\:y/1 --time_based --runtime=1", lines[1])
        self.assertIn("--ioengine=rbd --clientname=admin --pool=rbd --rbdname=x --time_based --runtime=1", lines[3])
        self.assertEqual(lines[1].partition("--ioengine")[0], lines[3].partition("--ioengine")[0])
        self.assertEqual(len(seen), 2)

    def test_failures_are_failures(self):
        for fio in (self.fio(fails=3), self.fio(error=5)):
            with self.assertRaises(qa.Failed) as failed:
                fio.prepare(self.row, self.side)
            self.assertIn("exited with", str(failed.exception))


FAKE_SPDK = """\
#!/usr/bin/python3 -Bs
import json, socket, sys
words = sys.argv[1:]
record = open({record!r}, "a")
record.write(json.dumps(words) + "\\n")
listener = socket.socket(socket.AF_UNIX)
listener.bind(words[words.index("-r") + 1])
listener.listen()
while True:
    client, _ = listener.accept()
    while True:
        data = client.recv(65536)
        if not data:
            break
        request = json.loads(data)
        record.write(json.dumps(request) + "\\n")
        record.flush()
        answer = {{"jsonrpc": "2.0", "id": request["id"]}}
        if request["method"] == {refuses!r}:
            answer["error"] = {{"code": -32602, "message": "Invalid parameters"}}
        else:
            answer["result"] = True
        text = json.dumps(answer, indent=2).encode()
        client.sendall(text[:7])
        client.sendall(text[7:])
"""


class Spdk(unittest.TestCase):
    """What SPDK would be told, by a program that only writes it down."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def start(self, kind, size, refuses=None):
        program_ = self.folder / "iscsi_tgt"
        program_.write_text(textwrap.dedent(FAKE_SPDK).format(record=str(self.folder / "record"), refuses=refuses))
        program_.chmod(0o755)
        target = spdk.Spdk(program_, self.folder, "iqn.2026-11.io.lus.qa:spdk")
        self.addCleanup(target.stop)
        target.start(kind, size)
        return target

    def record(self):
        return [json.loads(line) for line in (self.folder / "record").read_text().splitlines()]

    def test_the_requests(self):
        target = self.start("ram", 256 << 20)
        words, *requests = self.record()
        self.assertEqual(words, ["-m", "0x1", "--no-huge", "-s", "1280", "-r", target.socket])
        host, port = target.portal.split(":")
        wanted = [
            ("bdev_malloc_create", {"name": "disk", "num_blocks": 524288, "block_size": 512}),
            ("iscsi_create_portal_group", {"tag": 1, "portals": [{"host": host, "port": port}]}),
            ("iscsi_create_initiator_group", {"tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"]}),
            (
                "iscsi_create_target_node",
                {
                    "name": "iqn.2026-11.io.lus.qa:spdk",
                    "alias_name": "bench",
                    "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 1}],
                    "luns": [{"bdev_name": "disk", "lun_id": 0}],
                    "queue_depth": 64,
                    "disable_chap": True,
                },
            ),
        ]
        self.assertEqual(requests, [{"jsonrpc": "2.0", "id": n, "method": method, "params": params} for n, (method, params) in enumerate(wanted, 1)])
        self.assertEqual(target.url, f"iscsi://{target.portal}/iqn.2026-11.io.lus.qa:spdk/0")

    def test_null_takes_no_memory_for_its_disk(self):
        self.start("null", sides.NULL_SIZE)
        words, request, *_ = self.record()
        self.assertEqual(request["method"], "bdev_null_create")
        self.assertEqual(request["params"], {"name": "disk", "num_blocks": sides.NULL_SIZE // 512, "block_size": 512})
        self.assertEqual(words[words.index("-s") + 1], "1024")

    def test_it_stands_still_between_measurements(self):
        target = self.start("null", 1 << 30)
        side = sides.SpdkSide("spdk", target)
        state = lambda: pathlib.Path(f"/proc/{side.pid}/stat").read_text().rpartition(")")[2].split()[0]  # noqa: E731
        side.pause()
        qa.await_true("it stands still", lambda: state() == "T", 5)
        side.resume()
        qa.await_true("it runs", lambda: state() != "T", 5)
        side.pause()
        target.stop()
        self.assertIsNotNone(target.child.returncode)

    def test_a_refusal_is_a_failure(self):
        with self.assertRaisesRegex(qa.Failed, "iscsi_create_target_node.*Invalid parameters"):
            self.start("null", 1 << 30, refuses="iscsi_create_target_node")

    def test_a_program_that_ends_is_a_failure(self):
        with self.assertRaisesRegex(qa.Failed, "ended with 1"):
            target = spdk.Spdk("/bin/false", self.folder, "iqn.x")
            self.addCleanup(target.stop)
            target.start("null", 1 << 30)


class Perf(unittest.TestCase):
    """Stacks are folded from the outermost function to the innermost."""

    def test_fold(self):
        script = "lus-shard-0 1234/1240 \n\t 7f01 read\n\t 7f02 main\n\nlus-shard-0 1234/1240 \n\t 7f01 read\n\t 7f02 main\n\nlusd 1234/1234 \n\t 99\n\n"
        self.assertEqual(dict(perf.fold(script)), {"lus-shard-0;main;read": 2, "lusd;[unknown]": 1})


if __name__ == "__main__":
    unittest.main()
