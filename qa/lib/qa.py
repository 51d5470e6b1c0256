"""Shared by checks, workunits and benches: how they run and end, the cluster by the commands that any Ceph host has, and tools built on demand.

Nothing here knows where the cluster came from; `clusters.py` adds what only a cluster of tools/vstart can do. A check is an executable of `qa/checks`. It runs in
the environment that `tools/vstart env` prints, says what it does on stdout, cleans up what it made, and ends with 0 (passed), 77 (skipped, the reason on its last
line) or anything else (failed). A workunit is the same with the environment of teuthology's task `workunit`, and begins in an empty folder of its own; where a check
would be skipped it fails.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import c_sources

ROOT = pathlib.Path(__file__).resolve().parents[2]
QA = ROOT / "qa"
# Everything that the checks build or write; git ignores it.
BUILD = ROOT / "target" / "qa"
BIN = BUILD / "bin"
EXIT_FAILED, EXIT_SKIPPED = 1, 77
# Every IQN that a check makes begins so; what is left by a run that was cut short is found by it.
IQN = "iqn.2026-11.io.lus.qa"
# The exit codes of the clients in C (qa/clients/common.h).
CLIENT_FINE, CLIENT_FOUND, CLIENT_USAGE, CLIENT_LOST = 0, 1, 2, 3
MIB = 1 << 20


class Failed(Exception):
    """The thing under test misbehaved, or the check could not be carried out."""


class Skipped(Exception):
    """The check cannot be carried out here, and why."""


# ---- running a check -------------------------------------------------------------------------------------------------------------------------------------

_begun = time.monotonic()


def say(text):
    """One line of progress, with the time since the start."""
    print(f"[{time.monotonic() - _begun:7.2f}] {text}", flush=True)


def run_check(body):
    """Runs `body()`, turns its end into the exit code of a check, and never leaves a process of ours behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        body()
    except Skipped as reason:
        print(f"skipped: {reason}", flush=True)
        sys.exit(EXIT_SKIPPED)
    except Failed as reason:
        print(f"FAILED: {reason}", flush=True)
        sys.exit(EXIT_FAILED)
    finally:
        end_children()
    for path in _scratch:
        shutil.rmtree(path, ignore_errors=True)
    say("passed")


def full():
    """Whether the long form of a check is wanted: QA_FULL=1."""
    return os.environ.get("QA_FULL") == "1"


def digest_wanted():
    """Whether a workunit is to offer HeaderDigest=CRC32C: DIGEST is `header`, or `none`, which it is where it is not set."""
    wish = os.environ.get("DIGEST", "none")
    if wish not in ("none", "header"):
        raise Failed(f"DIGEST is {wish}; it must be none or header")
    return wish == "header"


def require(condition, message):
    """A condition of the check."""
    if not condition:
        raise Failed(message)


def await_true(what, condition, seconds, pause=0.05):
    """Waits until `condition()` is true and returns its value; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


_children = []


def spawn(argv, *, patience=10, stdin=subprocess.DEVNULL, **options):
    """Starts a process that is ended with the check at the latest: SIGTERM, and SIGKILL after `patience` seconds."""
    child = subprocess.Popen([str(word) for word in argv], stdin=stdin, **options)
    child.patience = patience
    _children.append(child)
    return child


def end(child):
    """Ends a process that `spawn` started."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(child.patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child in _children:
        _children.remove(child)


def end_children():
    """Ends all processes that `spawn` started."""
    for child in list(_children):
        end(child)


def run(argv, *, check=True, timeout=120, env=None, stdin=None):
    """Runs a command to its end and returns it with `stdout` and `stderr` as text; unless `check` is false it must exit with 0."""
    argv = [str(word) for word in argv]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout, env=env, input=stdin if stdin is not None else "")
    except FileNotFoundError:
        raise Skipped(f"{argv[0]} is not installed") from None
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{shlex.join(argv)} did not end within {timeout} s\n{_text(late.stdout)}{_text(late.stderr)}") from None
    if check and result.returncode != 0:
        raise Failed(f"{shlex.join(argv)} exited with {result.returncode}\n{result.stdout}{result.stderr}".rstrip())
    return result


def _text(output):
    return (output or b"").decode(errors="replace") if isinstance(output, bytes | None) else output


def free_port():
    """A TCP port of the loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_answers(portal):
    """Whether somebody accepts connections at HOST:PORT."""
    host, port = portal.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


_scratch = []


def scratch(name):
    """A folder of this check for its files, empty; it stays where the check does not pass."""
    path = BUILD / "run" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    _scratch.append(path)
    return path


# ---- tools that are built ----------------------------------------------------------------------------------------------------------------------------------


def client(name):
    """The path of the program `qa/clients/NAME.c`, built."""
    files = c_sources.of(name)
    return _built(name, [path for path in files if path.suffix == ".c"], [path for path in files if path.suffix == ".h"], [])


def digest_env():
    """The environment in which a program on libiscsi offers HeaderDigest=CRC32C and nothing else."""
    library = _built("digest.so", [QA / "clients" / "digest.c"], [], ["-shared", "-fPIC"])
    return {**os.environ, "LD_PRELOAD": str(library)}


def _built(name, sources, headers, flags):
    """A binary in BIN; it is built again when a source is newer."""
    inputs = [*sources, *headers]
    binary = BIN / name
    if binary.exists() and all(binary.stat().st_mtime > source.stat().st_mtime for source in inputs):
        return binary
    if not pathlib.Path("/usr/include/iscsi/iscsi.h").exists():
        raise Skipped("libiscsi's headers are missing; run: apt-get install libiscsi-dev")
    BIN.mkdir(parents=True, exist_ok=True)
    fresh = BIN / f"{name}.{os.getpid()}"
    run(["cc", *c_sources.CFLAGS, *flags, "-o", fresh, *sources, "-liscsi"])
    fresh.rename(binary)
    return binary


def fio_binary():
    """fio with the libiscsi engine; Debian's binary has none, so it is built from Debian's source once."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "fio.lock", "w") as lock:
        # Whoever comes second finds it built.
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run([QA / "lib" / "build-fio", BUILD / "fio"], check=False, timeout=600)
    if result.returncode == EXIT_SKIPPED:
        raise Skipped(result.stderr.strip().splitlines()[-1])
    if result.returncode != 0:
        raise Failed(f"cannot build fio:\n{result.stderr}")
    return result.stdout.strip()


def fio_name(url):
    """`url` as fio's `--filename` takes it: a colon separates files there."""
    return url.replace(":", r"\:")


def fio(url, *options, digest=False, timeout=600):
    """Runs fio on a LUN and returns its report (JSON). The same words are used for every gateway."""
    argv = [fio_binary(), "--name=qa", "--ioengine=libiscsi", "--thread", f"--filename={fio_name(url)}", "--output-format=json", "--verify_state_save=0", *options]
    result = run(argv, check=False, timeout=timeout, env=digest_env() if digest else None)
    begin = result.stdout.find("{")
    try:
        report = json.loads(result.stdout[begin:]) if begin >= 0 else None
    except ValueError:
        report = None
    if result.returncode != 0 or report is None or report["jobs"][0]["error"] != 0:
        raise Failed(f"{shlex.join(argv)} exited with {result.returncode}\n{result.stdout[:begin]}{result.stderr}".rstrip())
    return report


# ---- the cluster -------------------------------------------------------------------------------------------------------------------------------------------


class Cluster:
    """A cluster by the commands `ceph`, `rbd` and `lus`, which find it by the environment (CEPH_CONF, CEPH_ARGS; on a cluster's own host /etc/ceph)."""

    def __init__(self, env):
        self.env = dict(env)

    @classmethod
    def given(cls):
        """The cluster of the environment."""
        return cls(os.environ)

    @property
    def portals(self):
        """The portals of the daemons that are up, the daemons in the order of their ids."""
        up = [daemon for daemon in self.lus_json("daemon", "ls") if daemon["state"] == "up"]
        return [portal for daemon in sorted(up, key=lambda daemon: daemon["id"]) for portal in daemon["portals"]]

    def ceph(self, *words):
        """`ceph WORDS -f json`, decoded; of several values (`osd blocklist ls` prints the ranges as a second one) the first."""
        answer = run(["ceph", *words, "-f", "json"], env=self.env).stdout
        return json.JSONDecoder().raw_decode(answer.lstrip())[0]

    def rbd(self, *words, check=True):
        """`rbd WORDS`."""
        return run(["rbd", *words], env=self.env, check=check)

    def rbd_json(self, *words):
        """`rbd WORDS --format json`, decoded."""
        return json.loads(self.rbd(*words, "--format", "json").stdout)

    def lus(self, *words, check=True, timeout=60):
        """`lus WORDS`."""
        return run(["lus", *words], env=self.env, check=check, timeout=timeout)

    def lus_json(self, *words):
        """`lus WORDS -f json`, decoded."""
        return json.loads(self.lus(*words, "-f", "json").stdout)

    @contextlib.contextmanager
    def target(self, name, hosts=()):
        """A target `IQN:NAME` for these hosts, or for anyone; it and its LUs go with the block. Leftovers of a run that was cut short go first."""
        target = Target(self, f"{IQN}:{name}")
        target.remove()
        self.lus("target", "create", target.iqn, *([] if hosts else ["--open"]))
        for host in hosts:
            self.lus("host", "add", target.iqn, host)
        try:
            yield target
        finally:
            target.remove()


class Target:
    """A target of LUS and the LUs that this check maps to it."""

    def __init__(self, cluster, iqn):
        self.cluster = cluster
        self.iqn = iqn
        self.lus = []

    def create(self, name, size, *options, lun=None):
        """A new LU (`rbd/x`, `null:x`, `ram:x`), mapped; returns its LUN number."""
        self.cluster.lus("lu", "rm", name, "--yes-i-really-mean-it", check=False)
        self.cluster.lus("lu", "create", name, size, *options)
        return self.map(name, lun)

    def add(self, name, *options, lun=None):
        """An image that `rbd` made becomes an LU, mapped; returns its LUN number. It is removed with the target, its image too."""
        self.cluster.lus("lu", "add", name, *options)
        return self.map(name, lun)

    def give_back(self, name):
        """The LU ends, its image stays."""
        self.cluster.lus("lu", "rm", name, "--keep-image", "--yes-i-really-mean-it")
        self.lus.remove(name)

    def map(self, name, lun=None):
        """Maps an LU that is there already; it is removed with the target."""
        lun = len(self.lus) if lun is None else lun
        self.lus.append(name)
        self.cluster.lus("lun", "map", self.iqn, name, "--lun", str(lun))
        return lun

    def url(self, lun, portal=None, digest=False):
        """Where libiscsi finds a LUN."""
        portal = portal or self.cluster.portals[0]
        return f"iscsi://{portal}/{self.iqn}/{lun}" + ("?header_digest=crc32c" if digest else "")

    def remove(self):
        """Removes everything, as far as it is there."""
        listed = self.cluster.lus("lun", "ls", self.iqn, "-f", "json", check=False)
        names = {*self.lus, *(entry["lu"] for entry in json.loads(listed.stdout or "[]"))}
        self.lus = []
        self.cluster.lus("target", "rm", self.iqn, "--yes-i-really-mean-it", check=False)
        for name in sorted(names):
            self.cluster.lus("lu", "rm", name, "--yes-i-really-mean-it", check=False)


@contextlib.contextmanager
def disk(name, size):
    """The URL of a disk of SIZE: the one that QA_URL names, which any gateway may serve, else a new LU `rbd/qa-NAME` of the cluster, removed after the block."""
    given = os.environ.get("QA_URL")
    if given:
        yield given
        return
    with Cluster.given().target(name) as target:
        yield target.url(target.create(f"rbd/qa-{name}", size))
