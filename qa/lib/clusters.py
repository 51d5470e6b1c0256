"""Clusters that tools/vstart made, for checks and benches that start, stop and kill daemons."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time

import qa

sys.path.insert(0, str(qa.ROOT / "tools" / "lib"))
import cluster as vstart  # noqa: E402
import procs  # noqa: E402

VSTART = qa.ROOT / "tools" / "vstart"


class Cluster(qa.Cluster):
    """A cluster made by tools/vstart."""

    def __init__(self, env):
        missing = [name for name in ("CEPH_CONF", "LUS_DIR") if not env.get(name)]
        if missing:
            raise qa.Failed(f'{" and ".join(missing)} not set: run `tools/vstart up`, then `eval "$(tools/vstart env)"`, then the check (or tools/check)')
        super().__init__(env)
        self.dir = pathlib.Path(env["LUS_DIR"])

    @property
    def portals(self):
        """The portals of all daemons, whether they run or not."""
        return self.env.get("LUS_PORTALS", "").split()

    @classmethod
    @contextlib.contextmanager
    def private(cls, name, lusds, osds=1):
        """A cluster of the check's own, destroyed afterwards."""
        path = qa.BUILD / name
        qa.run([VSTART, "destroy", "--dir", path], check=False, timeout=60)
        qa.say(f"starting a cluster with {lusds} daemons in {path}")
        qa.run([VSTART, "up", "--dir", path, "--osds", osds, "--lusds", lusds, "--no-build"], timeout=180)
        try:
            yield cls(_vstart_env(path))
        finally:
            qa.end_children()
            qa.run([VSTART, "destroy", "--dir", path], check=False, timeout=60)

    def vstart(self, *words, timeout=180):
        """tools/vstart on this cluster."""
        return qa.run([VSTART, *words, "--dir", self.dir], timeout=timeout)

    def daemons(self):
        """The cluster's daemons, in the order of their names."""
        made = vstart.Cluster(self.dir)
        made.require()
        return [Lusd(made, name) for name in made.lusd_names()]

    @contextlib.contextmanager
    def target(self, name):
        """As `qa.Cluster.target`; daemons that the block left dead are started."""
        with super().target(name) as target:
            try:
                yield target
            finally:
                for daemon in self.daemons():
                    if not daemon.running():
                        daemon.start()


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
        qa.require(pid, f"{self.name} does not run; see {self.log} and {self.process.output}")
        return pid

    def running(self):
        """Whether it runs."""
        return self.process.pid() is not None

    def kill(self):
        """SIGKILL, and its end awaited."""
        qa.require(self.process.send(signal.SIGKILL), f"{self.name} does not run")
        qa.await_true(f"{self.name} is gone", lambda: not self.running(), 10, pause=0.005)

    def stop(self):
        """SIGTERM, and its end awaited."""
        if self.process.send(signal.SIGTERM):
            qa.await_true(f"{self.name} ends on SIGTERM", lambda: not self.running(), self.STOP_S)

    def start(self, *flags, wait=True):
        """Starts it as vstart does, with further flags; returns the time (CLOCK_MONOTONIC) before its start."""
        procs.raise_file_limit()
        begun = time.monotonic()
        self.process.start([*self.argv, *flags])
        if wait:
            qa.await_true(f"{self.name} listens", self._listening, self.START_S, pause=0.01)
        return begun

    def _listening(self):
        if self.process.child and self.process.child.poll() is not None:
            raise qa.Failed(f"{self.name} ended with {self.process.child.returncode}; see {self.log} and {self.process.output}")
        return qa.port_answers(self.portal)

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
    words = qa.run([VSTART, "env", "--dir", path]).stdout
    script = f"{words}\nenv -0"
    output = subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True).stdout
    return dict(item.split("=", 1) for item in output.split("\0") if "=" in item)
