"""Monitor, manager and OSDs of a cluster of tools/vstart as teuthology's ctx.daemons has them."""

import logging
import signal
import time

import procs
from teuthology.exceptions import CommandFailedError

_POLL_SECONDS = 0.05
_STOP_SECONDS = 30


class VstartDaemon:
    """The face of teuthology's DaemonState. A stop is SIGKILL, as it is with ceph.git's task `ceph` (daemon-helper kill)."""

    def __init__(self, cluster, remote, type_, id_):
        self.remote = remote
        self.cluster = "ceph"
        self.type_ = type_
        self.role = f"ceph.{type_}"
        self.id_ = id_
        self.name = f"{type_}.{id_}"
        self.log = logging.getLogger(f"tasks.ceph.{self.name}")
        self._made = cluster
        self._process = cluster.process(self.name)
        self._wanted = True

    @property
    def pid(self):
        """The pid, None if it does not run."""
        return self._process.pid()

    def running(self):
        """Whether it was started and not stopped since; it may have ended by itself."""
        return self._wanted

    def finished(self):
        """Whether it ended by itself."""
        return self._wanted and self.pid is None

    def check_status(self):
        """None while it runs; raises CommandFailedError if it ended by itself."""
        if self.finished():
            raise CommandFailedError(self.name, None, self.remote.shortname)

    def reset(self):
        """Forgets the process."""
        self._wanted = False

    def signal(self, sig, silent=False):
        """Sends a signal."""
        if not self._process.send(sig):
            self.log.error("No such daemon running")
        elif not silent:
            self.log.info("Sent signal %d", sig)

    def start(self, timeout=300):
        """Starts it with the command line that it had; a running one is restarted."""
        self.restart()

    def restart(self):
        """Stops it if it runs, and starts it."""
        if self.pid:
            self.stop()
        self._process.start(self._made.argv(self.name))
        self._wanted = True
        self.log.info("Started")

    def stop(self, timeout=300):
        """SIGKILL, and waits for the end."""
        if not self._wanted:
            self.log.error("tried to stop a non-running daemon")
            return
        procs.stop([self._process], _STOP_SECONDS, signal.SIGKILL)
        self._wanted = False
        self.log.info("Stopped")

    def wait(self, timeout=300):
        """Waits for its own end, which is an error; raises in any case."""
        end = time.monotonic() + timeout
        while self.pid:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} still runs after {timeout} s")
            time.sleep(_POLL_SECONDS)
        self._wanted = False
        raise CommandFailedError(self.name, None, self.remote.shortname)

    def wait_for_exit(self):
        """Waits for its own end."""
        if self._wanted:
            self.wait()
