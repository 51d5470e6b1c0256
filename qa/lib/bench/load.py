"""The load. Whoever brings another generator brings a class like `Fio`, and its name for `LOADS`; librbd without a target is always fio's."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time

import qa

from bench.rows import SIZE

sys.path.insert(0, str(qa.ROOT / "tools" / "lib"))
import build  # noqa: E402

PATIENCE_S = 60  # that a load may need beyond its time
_START_S = 0.5  # from fio's start to its first request, about


@dataclasses.dataclass
class Outcome:
    """What a load saw: fio's report of one job, and the processor time of the load's process in its I/O, in seconds."""

    job: dict
    cpu_s: float


class Fio:
    """fio, with its libiscsi engine on a LUN, with its rbd engine on an image."""

    def __init__(self, folder):
        self.binary = qa.fio_binary()
        self.folder = folder
        self._start_cpu = {}

    def prepare(self, row, side):
        """Before the first measurement of a row on a side, outside of what is measured: a single request. Loading, connecting and opening cost fio's process up to
        0.2 s, which are then taken off what its I/O cost."""
        key = (side.name, row.sessions)
        if key not in self._start_cpu:
            self._start_cpu[key] = self._fio([*_words(row, side), "--number_ios=1"], side.env, PATIENCE_S)[1]

    def run(self, row, side, runtime, watch):
        """Runs a row on a side for `runtime` seconds; `watch(pid)` is called once in the middle of it. qa.Failed where an I/O failed."""
        words = [*_words(row, side), "--time_based", f"--runtime={runtime}"]
        report, cpu_s = self._fio(words, side.env, runtime + PATIENCE_S, watch, runtime / 2)
        return Outcome(report["jobs"][0], max(0.0, cpu_s - self._start_cpu[side.name, row.sessions]))

    def _fio(self, words, env, limit_s, watch=None, half_s=0):
        argv = [self.binary, "--name=bench", "--thread", "--output-format=json", "--verify_state_save=0", *words]
        answer, errors = self.folder / "fio.json", self.folder / "fio.err"
        with open(answer, "w") as out, open(errors, "w") as err:
            child = qa.spawn(argv, stdout=out, stderr=err, env=env)
        if watch:
            time.sleep(_START_S + half_s)
            watch(child.pid)
        usage = _reap(child, limit_s)
        text = answer.read_text()
        begin = text.find("{")
        try:
            report = json.loads(text[begin:]) if begin >= 0 else None
        except ValueError:
            report = None
        if child.returncode != 0 or report is None or report["jobs"][0]["error"] != 0:
            raise qa.Failed(f"{shlex.join(map(str, argv))} exited with {child.returncode}\n{text[:begin]}{errors.read_text()}".rstrip())
        return report, usage.ru_utime + usage.ru_stime


def _words(row, side):
    return [*row.fio_words(), *_where(side)]


def _where(side):
    if side.image:
        pool, image = side.image.split("/")
        return ["--ioengine=rbd", "--clientname=admin", f"--pool={pool}", f"--rbdname={image}"]
    return ["--ioengine=libiscsi", f"--filename={qa.fio_name(side.url)}"]


def _reap(child, limit_s):
    """Waits for a child of `qa.spawn`; what it used of the machine."""
    end = time.monotonic() + limit_s
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            qa.end(child)  # it has ended: this only takes it off the list
            return usage
        if time.monotonic() > end:
            qa.end(child)
            raise qa.Failed(f"{shlex.join(map(str, child.args))} did not end within {limit_s} s")
        time.sleep(0.02)


class LusLoad:
    """lus-load (qa/load), for rows that would measure fio; rows without a target are fio's."""

    def __init__(self, folder):
        self.fio = Fio(folder)
        self.binary = lus_load_binary()
        self.folder = folder

    def prepare(self, row, side):
        """As `Fio.prepare`. lus-load counts its processor time from its first I/O on, so there is nothing to take off."""
        if side.image:
            self.fio.prepare(row, side)
        else:
            self._load([*_lus_load_words(row), side.url, "--runtime=60", "--number-ios=1"], PATIENCE_S)

    def run(self, row, side, runtime, watch):
        """As `Fio.run`."""
        if side.image:
            return self.fio.run(row, side, runtime, watch)
        report = self._load([*_lus_load_words(row), side.url, f"--runtime={runtime}"], runtime + PATIENCE_S, watch, runtime / 2)
        job = report["jobs"][0]
        direction = job["write" if row.writes else "read"]
        return Outcome(job, job["cpu_us_per_io"] * direction["total_ios"] / 1e6)

    def _load(self, words, limit_s, watch=None, half_s=0):
        argv = [self.binary, "--format=json", *words]
        answer, errors = self.folder / "lus-load.json", self.folder / "lus-load.err"
        with open(answer, "w") as out, open(errors, "w") as err:
            child = qa.spawn(argv, stdout=out, stderr=err)
        if watch:
            time.sleep(_START_S / 10 + half_s)
            watch(child.pid)
        _reap(child, limit_s)
        if child.returncode != 0:
            raise qa.Failed(f"{shlex.join(map(str, argv))} exited with {child.returncode}\n{errors.read_text()}".rstrip())
        return json.loads(answer.read_text())


def lus_load_binary():
    """The path of lus-load, built."""
    cargo = build.require_cargo()
    done = subprocess.run([cargo, "build", "--release", "-p", "lus-load"], cwd=qa.ROOT, env=build.environment(), stdin=subprocess.DEVNULL, stdout=2)
    if done.returncode != 0:
        raise qa.Failed("cannot build lus-load, see above")
    return build.bin_dir("release") / "lus-load"


def _lus_load_words(row):
    words = [f"--rw={row.op}", f"--bs={row.block}", f"--iodepth={row.depth}", f"--sessions={row.sessions}"]
    return [*words, f"--size={SIZE}"]


LOADS = {"fio": Fio, "lus-load": LusLoad}
