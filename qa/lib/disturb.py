"""Workunits that run while other tasks of the job disturb the cluster, and how the two know of each other.

The workunit makes $TESTDIR/lus.begun when it is under way; whoever disturbs waits for it, and makes $TESTDIR/lus.stop when it is done. Both files are removed by the
workunit. That the disturbance took place, and within that time, is seen in the cluster's maps.
"""

import contextlib
import os
import pathlib

import qa

STOP_S = 600  # of disturbance


class Watch:
    """What is to be restarted while the workunit runs: EXPECT in the environment, some of `osd.*`, `mon.a` and `lus.*`."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.expected = os.environ.get("EXPECT", "").split()
        testdir = os.environ.get("TESTDIR")
        qa.require(testdir, "TESTDIR is not set")
        self.begun, self.stop = (pathlib.Path(testdir) / name for name in ("lus.begun", "lus.stop"))
        self.seen = self._births()
        qa.require(self.seen, "EXPECT names nothing that could be restarted")

    def _births(self):
        """{daemon: a number that only its restart raises}."""
        births = {}
        for what in self.expected:
            if what == "osd.*":
                births |= {f"osd.{osd['osd']}": osd["up_from"] for osd in self.cluster.ceph("osd", "dump")["osds"]}
            elif what == "lus.*":
                births |= {f"lus.{daemon['id']}": daemon["up_from"] for daemon in self.cluster.lus_json("daemon", "ls")}
            elif what == "mon.a":
                births["mon.a"] = self.cluster.ceph("quorum_status")["election_epoch"]
            else:
                raise qa.Failed(f"EXPECT: {what} is not one of osd.*, mon.a, lus.*")
        return births

    @contextlib.contextmanager
    def window(self, alive):
        """Says that the workunit is under way; after the block, waits for the end of the disturbance. `alive()` raises when the workunit has nothing to wait for."""
        for path in (self.begun, self.stop):
            path.unlink(missing_ok=True)
        self.begun.touch()
        try:
            yield
            qa.await_true("the end of the disturbance", lambda: alive() or self.stop.exists(), STOP_S)
        finally:
            for path in (self.begun, self.stop):
                path.unlink(missing_ok=True)

    def require_restarts(self):
        """Each daemon that was to be restarted has been."""
        now = self._births()
        same = [name for name, birth in self.seen.items() if now.get(name, 0) <= birth]
        qa.require(not same, f"not restarted meanwhile: {', '.join(same)}")
        return ", ".join(self.seen)
