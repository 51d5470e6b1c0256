"""Jobs as processes: a folder and a cluster for each, a time limit, its verdict, and an end to whatever it leaves."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import build
import network
import ui
from cluster import MAX_DIR, PORT_STEP
from teuth import BUILD, ENDED_BY_RUNNER, ROOT, TEUTH, sweep
from ui import Failure

ARCHIVE = BUILD / "archive"
WORK = BUILD / "w"
# Runs of which the logs stay.
_RUNS_KEPT = 5
# From SIGTERM to SIGKILL for a job: its tasks unwind in it. Who interrupts a run (tools/check) does not wait long.
_GRACE_SECONDS = 30
_GRACE_SECONDS_INTERRUPTED = 10
_TICK_SECONDS = 0.2
_SIGN_OF_LIFE_SECONDS = 60
# Lines of a failed job's output that are shown.
_LAST_WORDS = 5


@dataclasses.dataclass
class Verdict:
    """What became of a job: seconds that it took, and why it failed."""

    job: dict
    passed: bool
    seconds: float
    reason: str
    archive: pathlib.Path

    def details(self):
        """What the tasks' commands printed last before the first failure, and where the rest is."""
        log = self.archive / "teuthology.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        printed = re.findall(r"^\S+ \w+:tasks\.\S+\.(?:stdout|stderr):(.+)$", text.partition("Saw exception from tasks")[0], re.M)
        return [*printed[-_LAST_WORDS:], str(_short(log))]


class Run:
    """One call of qa/run."""

    def __init__(self, python, suite, jobs, options):
        self.python = python
        self.suite = suite
        self.jobs = jobs
        self.options = options
        self.name = f"{suite.replace('/', '-')}-{time.strftime('%Y-%m-%d_%H:%M:%S')}-{os.getpid()}"
        self.archive = (options.archive or ARCHIVE / self.name).absolute()
        self._stop = threading.Event()
        self._running = {}
        self._print_lock = threading.Lock()
        self._work = None

    def run(self):
        """Runs all jobs; the exit status."""
        self.archive.mkdir(parents=True, exist_ok=True)
        if not self.options.archive:
            _forget_old_runs()
        print(f"{self.suite}: {len(self.jobs)} jobs, seed {self.options.seed}, logs in {_short(self.archive)}", flush=True)
        verdicts = []
        # Held, so that no other run takes its logs for old ones.
        with _locked(self.archive), _work_folder(self.options.keep) as self._work:
            with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
                pending = [pool.submit(self._job, job) for job in self.jobs]
                try:
                    self._watch(pending)
                except BaseException:
                    # Ctrl-C or SIGTERM: the running jobs end as at their limit, the others do not begin.
                    self._stop.set()
                    raise
                finally:
                    concurrent.futures.wait(pending)
                    verdicts = [future.result() for future in pending if future.exception() is None and future.result()]
                    self._finish(verdicts)
        return 0 if verdicts and all(verdict.passed for verdict in verdicts) else 1

    def _watch(self, pending):
        said = time.monotonic()
        while not all(future.done() for future in pending):
            concurrent.futures.wait(pending, timeout=_TICK_SECONDS * 2)
            if sys.stdout.isatty():
                self._live_line()
            elif time.monotonic() - said > _SIGN_OF_LIFE_SECONDS:
                said = time.monotonic()
                still = ", ".join(f"[{number}] {said - begun:.0f} s" for number, (begun, _) in sorted(self._running.items()))
                self._say(f"still runs: {still}")
        for future in pending:
            future.result()

    def _live_line(self):
        with self._print_lock:
            for number, (begun, archive) in sorted(self._running.items())[:1]:
                last = (ui.tail(archive / "teuthology.log", 1) or [""])[0].partition(" ")[2]
                line = f"[{number}] {time.monotonic() - begun:5.0f} s  {last}"
                print(f"\r\033[K{line[: os.get_terminal_size().columns - 1]}", end="", flush=True)

    def _say(self, text):
        with self._print_lock:
            print(("\r\033[K" if sys.stdout.isatty() else "") + text, flush=True)

    def _job(self, job):
        """One job from its folder to its verdict; None if the run was ended before."""
        if self._stop.is_set():
            return None
        begun = time.monotonic()
        place = _Place(self._work / str(job["number"]), self.archive / str(job["number"]))
        self._running[job["number"]] = (begun, place.archive)
        label = f"[{job['number']:2}/{self.jobs[-1]['number']}]"
        self._say(f"{label} begins {job['description']}")
        try:
            place.make(self._order(job, place))
            reason = self._process(place)
            reason = place.judge(reason)
        except OSError as error:
            reason = str(error)
        finally:
            keep = self.options.keep and bool(place.reason)
            left = place.end(keep)
            del self._running[job["number"]]
        if left and not reason:
            reason = place.fail(f"left running: {'; '.join(f'{command} (pid {pid})' for pid, command in left.items())}")
        verdict = Verdict(job, not reason, time.monotonic() - begun, reason, place.archive)
        self._print_verdict(label, verdict, place, keep)
        return verdict

    def _print_verdict(self, label, verdict, place, keep):
        word, name = ("passed", "green") if verdict.passed else ("failed", "red")
        lines = [f"{label} {ui.colour(word, name, sys.stdout)} {verdict.seconds:5.1f} s  {verdict.job['description']}"]
        if not verdict.passed:
            lines += [f"        {line}" for line in (_brief(verdict.reason), *verdict.details())]
        if keep:
            lines.append(f"        kept: eval \"$(tools/vstart env --dir {place.cluster})\"; when done: tools/vstart destroy --dir {place.cluster}")
        self._say("\n".join(lines))

    def _order(self, job, place):
        """What the job's process is told."""
        words = [str(TEUTH / "bin"), str(place.work / "bin"), str(build.bin_dir("release")), *os.environ.get("PATH", os.defpath).split(":")]
        return {
            "archive": str(place.archive),
            "work": str(place.work),
            "cluster": str(place.cluster),
            "logs": str(place.logs),
            "result": str(place.result),
            "port_base": self.options.port_base + PORT_STEP * (job["number"] % self.options.jobs),
            "keep": self.options.keep,
            "path": ":".join(dict.fromkeys(words)),
            "name": self.name,
            "job_id": str(job["number"]),
            "description": job["description"],
            "config": job["config"],
        }

    def _process(self, place):
        """Runs the job's process within its limit; why it failed where it could not say so itself."""
        environment = {**os.environ, sweep.MARK: str(place.work), "HOME": str(place.work / "home"), "TEUTHOLOGY_CONFIG": str(place.work / "teuthology.yaml")}
        with open(place.archive / "output.log", "wb") as output:
            child = subprocess.Popen(
                [self.python, "-Bs", TEUTH / "job.py", place.order],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=place.work,
                start_new_session=True,
            )
        end = time.monotonic() + self.options.timeout
        while child.poll() is None and time.monotonic() < end and not self._stop.is_set():
            time.sleep(_TICK_SECONDS)
        if child.poll() is not None:
            return "" if child.returncode == 0 else f"the job's process ended with {child.returncode}: see output.log"
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS_INTERRUPTED if self._stop.is_set() else _GRACE_SECONDS)
        if child.poll() is None:
            child.kill()
            child.wait()
        return "interrupted" if self._stop.is_set() else f"not done within the limit of {self.options.timeout} s"

    def _finish(self, verdicts):
        """The sum: JUnit XML, a table of what failed, and the last line."""
        path = self.options.junit or self.archive / "junit.xml"
        if verdicts:
            self._junit(verdicts, path)
        failed = [verdict for verdict in verdicts if not verdict.passed]
        skipped = len(self.jobs) - len(verdicts)
        with self._print_lock:
            for verdict in failed:
                print(f"{ui.colour('failed', 'red', sys.stdout)}  [{verdict.job['number']}] {verdict.job['description']}: {_brief(verdict.reason)}")
            if skipped:
                print(f"{ui.colour('skipped', 'yellow', sys.stdout)}  {skipped} jobs: the run was interrupted")
            print(f"{len(verdicts) - len(failed)} passed, {len(failed)} failed, {skipped} skipped", flush=True)

    def _junit(self, verdicts, path):
        cases = [
            {"name": v.job["description"], "classname": self.suite, "time": round(v.seconds, 2), "failure": _brief(v.reason), "text": "\n".join(v.details())}
            for v in sorted(verdicts, key=lambda verdict: verdict.job["number"])
        ]
        words = [self.python, "-Bs", TEUTH / "junit.py", path]
        done = subprocess.run(words, input=json.dumps({"name": self.suite, "cases": cases}), text=True, capture_output=True)
        if done.returncode != 0:
            raise Failure(f"cannot write {path}: {done.stderr.strip()}")


class _Place:
    """Where one job is: `work` goes with it, `archive` stays."""

    def __init__(self, work, archive):
        self.work = work
        self.archive = archive
        self.cluster = work / "c"
        self.logs = work / "log"
        self.order = work / "job.json"
        self.result = work / "result.json"
        self.summary = archive / "summary.yaml"
        self.reason = ""

    def make(self, order):
        """The folders, and what the job's process reads."""
        self.archive.mkdir(parents=True, exist_ok=True)
        for name in ("home", "tmp", "log", "run", "bin", "t/archive"):
            (self.work / name).mkdir(parents=True)
        self.order.write_text(json.dumps(order))
        # No server of a lab is asked anything.
        settings = {"test_path": str(self.work / "t"), "test_user": "root", "lock_server": "", "results_server": "", "archive_base": str(self.archive)}
        (self.work / "teuthology.yaml").write_text(json.dumps(settings))

    def judge(self, reason):
        """Why the job failed, empty if it passed: by its own word, else by how its process ended."""
        if not self.result.exists():
            return self.fail(reason or "the job wrote no summary: see output.log")
        said = json.loads(self.result.read_text())
        if not said["success"]:
            self.reason = said.get("failure_reason") or "it failed without a reason"
        if reason and self.reason in ("", ENDED_BY_RUNNER):
            self.fail(reason)
        return self.reason

    def fail(self, reason):
        """Puts a failure on record that the job itself could not see."""
        self.reason = reason
        text = self.summary.read_text() if self.summary.exists() else ""
        kept = [line for line in text.splitlines() if not line.startswith(("success:", "status:", "failure_reason:"))]
        # A JSON string is a YAML string.
        self.summary.write_text("\n".join([*kept, f"failure_reason: {json.dumps(reason)}", "status: fail", "success: false"]) + "\n")
        return reason

    def end(self, keep):
        """Copies the logs; ends what still runs, and returns it. With `keep` it stays, as all files do."""
        left = {} if keep else sweep.end(str(self.work))
        if not keep:
            network.Network(self.cluster).remove()
        for folder in (self.cluster / "log", self.logs, self.work / "t" / "archive", self.cluster / "crash"):
            if folder.is_dir() and any(folder.iterdir()):
                shutil.copytree(folder, self.archive / "remote" / folder.name, dirs_exist_ok=True, symlinks=True)
        output = self.archive / "output.log"
        if output.exists() and not output.stat().st_size:
            output.unlink()
        if not keep:
            shutil.rmtree(self.work)
        return left


@contextlib.contextmanager
def _work_folder(keep):
    """A folder for this run, short enough for Unix sockets; those of runs that were killed go first, with what they left running."""
    needed = len("/xxxxxxxx/999/c")
    base = WORK if len(str(WORK)) + needed <= MAX_DIR else pathlib.Path(tempfile.gettempdir()) / f"lus-qa-{os.getuid()}"
    base.mkdir(parents=True, exist_ok=True)
    for old in base.iterdir():
        with _locked(old) as free:
            if free and not ((old / "kept").exists() and any(old.glob("*/c/vstart.json"))):
                for job in old.iterdir():
                    sweep.kill(str(job))
                    network.Network(job / "c").remove()
                shutil.rmtree(old)
    folder = pathlib.Path(tempfile.mkdtemp(dir=base, prefix=""))
    with _locked(folder):
        try:
            yield folder
        finally:
            if any(entry.is_dir() for entry in folder.iterdir()):
                (folder / "kept").touch()
            else:
                shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder):
    """Holds a folder; false if another process does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def _forget_old_runs():
    """Removes the logs of all but the latest runs; not of one that runs on, however many began since."""
    began = {}
    for path in ARCHIVE.iterdir():
        with contextlib.suppress(FileNotFoundError):
            began[path] = path.stat().st_mtime
    for old in sorted(began, key=began.get, reverse=True)[_RUNS_KEPT:]:
        with contextlib.suppress(FileNotFoundError), _locked(old) as free:
            if free:
                shutil.rmtree(old, ignore_errors=True)


def _brief(reason):
    """A reason without the whole command line that teuthology puts at its end; the summary and the log have it."""
    return re.sub(r'^(Command (?:failed|crashed).*?): ".*', r"\1", reason.replace("\n", " "))


def _short(path):
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
