"""Shared by the checks and benches: the cluster under test, the gateways (lusd, and tgt to compare with or to prove a client on), and tools built on demand.

A check is an executable of `qa/checks`. It runs in the environment that `tools/vstart env` prints, says what it does on stdout, cleans up what it made, and ends
with 0 (passed), 77 (skipped, the reason on its last line) or anything else (failed).
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
QA = ROOT / "qa"
sys.path.insert(0, str(ROOT / "tools" / "lib"))
import cluster as vstart_cluster  # noqa: E402
import procs  # noqa: E402

# Everything that the checks build or write; git ignores it.
BUILD = ROOT / "target" / "qa"
BIN = BUILD / "bin"
EXIT_FAILED, EXIT_SKIPPED = 1, 77
# Every IQN that a check makes begins so; what is left by a run that was cut short is found by it.
IQN = "iqn.2026-11.io.lus.qa"
# The exit codes of the clients in C (qa/clients/common.h).
CLIENT_FINE, CLIENT_FOUND, CLIENT_USAGE, CLIENT_LOST = 0, 1, 2, 3
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
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


def spawn(argv, *, patience=10, **options):
    """Starts a process that is ended with the check at the latest: SIGTERM, and SIGKILL after `patience` seconds."""
    child = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, **options)
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
    clients = QA / "clients"
    return _built(name, [clients / f"{name}.c", clients / "common.c"], [clients / "common.h"], [])


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
    run(["cc", *CFLAGS, *flags, "-o", fresh, *sources, "-liscsi"])
    fresh.rename(binary)
    return binary


def fio_binary():
    """fio with the libiscsi engine; Debian's binary has none, so it is built from Debian's source once."""
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
    """A cluster made by tools/vstart, and the words to command it."""

    def __init__(self, env):
        missing = [name for name in ("CEPH_CONF", "LUS_DIR") if not env.get(name)]
        if missing:
            raise Failed(f'{" and ".join(missing)} not set: run `tools/vstart up`, then `eval "$(tools/vstart env)"`, then the check (or tools/check)')
        self.env = dict(env)
        self.dir = pathlib.Path(env["LUS_DIR"])
        self.portals = env.get("LUS_PORTALS", "").split()

    @classmethod
    def given(cls):
        """The cluster of the environment, as `tools/vstart env` describes it."""
        return cls(os.environ)

    @classmethod
    @contextlib.contextmanager
    def private(cls, name, lusds, osds=1):
        """A cluster of the check's own, destroyed afterwards."""
        path = BUILD / name
        vstart = ROOT / "tools" / "vstart"
        run([vstart, "destroy", "--dir", path], check=False, timeout=60)
        say(f"starting a cluster with {lusds} daemons in {path}")
        run([vstart, "up", "--dir", path, "--osds", osds, "--lusds", lusds, "--no-build"], timeout=180)
        try:
            yield cls(_vstart_env(path))
        finally:
            end_children()
            run([vstart, "destroy", "--dir", path], check=False, timeout=60)

    def vstart(self, *words, timeout=180):
        """tools/vstart on this cluster."""
        return run([ROOT / "tools" / "vstart", *words, "--dir", self.dir], timeout=timeout)

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

    def daemons(self):
        """The cluster's daemons, in the order of their names."""
        made = vstart_cluster.Cluster(self.dir)
        made.require()
        return [Lusd(made, name) for name in made.lusd_names()]

    @contextlib.contextmanager
    def target(self, name):
        """A target `IQN:NAME` that lets anyone in; it and its LUs go with the block, and daemons that the block left dead are started. Leftovers of a
        run that was cut short go first."""
        target = Target(self, f"{IQN}:{name}")
        target.remove()
        self.lus("target", "create", target.iqn, "--open")
        try:
            yield target
        finally:
            for daemon in self.daemons():
                if not daemon.running():
                    daemon.start()
            target.remove()


class Lusd:
    """One LUS daemon of a cluster: vstart's record of it is kept true, so that vstart finds the process that a check started."""

    START_S = 30  # from the start to the first connection that is accepted
    STOP_S = 30

    def __init__(self, made, name):
        self.name = name
        self.id = name.partition(".")[2]
        self.portal = made.portal(name)
        self.process = made.process(name)
        self.log = made.log(name)
        self.argv = json.loads((made.dir / "run" / f"{name}.argv").read_text())

    @property
    def pid(self):
        """The pid of the running daemon."""
        pid = self.process.pid()
        require(pid, f"{self.name} does not run; see {self.log} and {self.process.output}")
        return pid

    def running(self):
        """Whether it runs."""
        return self.process.pid() is not None

    def kill(self):
        """SIGKILL, and its end awaited."""
        require(self.process.send(signal.SIGKILL), f"{self.name} does not run")
        await_true(f"{self.name} is gone", lambda: not self.running(), 10, pause=0.005)

    def stop(self):
        """SIGTERM, and its end awaited."""
        if self.process.send(signal.SIGTERM):
            await_true(f"{self.name} ends on SIGTERM", lambda: not self.running(), self.STOP_S)

    def start(self, *flags, wait=True):
        """Starts it as vstart does, with further flags; returns the time (CLOCK_MONOTONIC) before its start."""
        procs.raise_file_limit()
        begun = time.monotonic()
        self.process.start([*self.argv, *flags])
        if wait:
            await_true(f"{self.name} listens", self._listening, self.START_S, pause=0.01)
        return begun

    def _listening(self):
        if self.process.child and self.process.child.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.child.returncode}; see {self.log} and {self.process.output}")
        return port_answers(self.portal)

    @contextlib.contextmanager
    def flags(self, *flags):
        """Runs it with further flags for the length of a block, then as before."""
        self.stop()
        self.start(*flags)
        try:
            yield
        finally:
            self.stop()
            self.start()


def _vstart_env(path):
    words = run([ROOT / "tools" / "vstart", "env", "--dir", path]).stdout
    script = f"{words}\nenv -0"
    output = subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True).stdout
    return dict(item.split("=", 1) for item in output.split("\0") if "=" in item)


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


# ---- processes under measurement -----------------------------------------------------------------------------------------------------------------------------


def cpu_seconds(pid):
    """User and system time of a process with all its threads, those that ended included."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steal_seconds():
    """Time that the hypervisor kept from this machine, over all cores."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def memory_peak(pid):
    """The largest resident size that a process ever had, in bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1)) * 1024


def port_answers(portal):
    """Whether somebody accepts connections at HOST:PORT."""
    host, port = portal.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


class Tgt:
    """tgt, the kernel-less target of Debian: what clients are proved on, and what lusd is measured against."""

    def __init__(self, folder, iqn=f"{IQN}:tgt"):
        self.folder = pathlib.Path(folder)
        self.iqn = iqn
        self.portal = f"127.0.0.1:{free_port()}"
        # Each instance has its control socket in a folder of its own, with a path that is short enough for one.
        self.home = tempfile.TemporaryDirectory(prefix="qa-tgt-")
        self.env = {**os.environ, "TGT_IPC_SOCKET": f"{self.home.name}/socket"}
        self.units = []
        self.child = None

    @property
    def pid(self):
        """The pid of tgtd."""
        return self.child.pid

    def unit(self, *options):
        """One more LUN, by tgtadm's options (`--backing-store PATH`, `--bstype null ...`); returns its number."""
        self.units.append(options)
        if self.child:
            self._admin("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(len(self.units)), *options)
        return len(self.units)

    def start(self):
        """Starts it with all its LUNs."""
        with open(self.folder / "tgtd.log", "ab") as log:
            # It ignores SIGTERM while it has targets.
            self.child = spawn(["tgtd", "-f", "--iscsi", f"portal={self.portal}"], patience=0, stdout=log, stderr=log, env=self.env)
        await_true("tgtd answers", lambda: port_answers(self.portal), 10)
        self._admin("--mode", "target", "--op", "new", "--tid", "1", "-T", self.iqn)
        # As shipped it refuses digests; with this it takes what the initiator prefers.
        self._admin("--mode", "target", "--op", "update", "--tid", "1", "--name", "HeaderDigest", "--value", "None,CRC32C")
        for number, options in enumerate(self.units, 1):
            self._admin("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(number), *options)
        self._admin("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")

    def _admin(self, *words):
        run(["tgtadm", "--lld", "iscsi", *words], env=self.env)

    def kill(self):
        """SIGKILL, and its end awaited."""
        self.child.kill()
        self.child.wait()

    def url(self, lun, digest=False):
        """Where libiscsi finds a LUN."""
        return f"iscsi://{self.portal}/{self.iqn}/{lun}" + ("?header_digest=crc32c" if digest else "")

    def stop(self):
        """Ends it."""
        if self.child:
            end(self.child)


class Relay:
    """A TCP relay before a portal that keeps the beginning of each direction: what a login really agreed on can be read there."""

    KEPT = 1 << 16  # bytes kept of each direction; logins are far shorter

    def __init__(self, portal):
        self.there = portal.rsplit(":", 1)
        self.said = {"initiator": bytearray(), "target": bytearray()}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.portal = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection((self.there[0], int(self.there[1])))
            except OSError:
                return
            for source, sink, who in ((near, far, "initiator"), (far, near, "target")):
                threading.Thread(target=self._pump, args=(source, sink, who), daemon=True).start()

    def _pump(self, source, sink, who):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                kept = self.said[who]
                kept += data[: max(0, self.KEPT - len(kept))]
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def agreed(self, key):
        """The last value that the target gave for a login key, None if it gave none."""
        found = re.findall(rb"(?:^|\0)" + key.encode() + rb"=([^\0]*)", bytes(self.said["target"]))
        return found[-1].decode() if found else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
