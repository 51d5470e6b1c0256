"""
Disturb daemons under the Linux kernel's initiator with dm-multipath
"""

import contextlib
import io
import logging
import pathlib
import sys
import time

from tasks import lus_failover, lusd
from teuthology import misc
from teuthology.exceptions import ConfigError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import linux_host  # noqa: E402
import remote_client  # noqa: E402

log = logging.getLogger(__name__)

DEFAULTS = {
    "client": "client.0",
    "faults": ["drain", "restart"],
    "rounds": None,
    "seconds": 60,
}
VM = str(pathlib.Path(__file__).resolve().parents[1] / "vm")
IQN = "iqn.2026-11.io.lus.qa:multipath"
IMAGES = ["rbd/qa-multipath-raw", "rbd/qa-multipath-ext4"]
RAW, FILES = 0, 1
SIZE_MIB = 48
# A host looks for paths that are back each 5 to 20 s. The machine may be emulated, and others may use this one.
PATHS_SECONDS = 400
# Two passes, one of which began after the fault. Its stall is in them.
PASSES, PASSES_SECONDS = 2, 600
# Longer than a session without an answer, or one that was reset, keeps what it has.
SILENCE_SECONDS = 20
POLL_SECONDS = 0.5


def task(ctx, config):
    """
    Disturb each daemon in turn while a Linux host writes to two LUs through dm-multipath:
    no error may reach an application, and what it wrote must be there.

    The host has Debian's unmodified kernel, open-iscsi and multipath-tools, with the
    settings that LUS ships (doc/hosts). One LU has an ext4 with files, each synced and
    renamed over an older one; to the other fio writes in passes, each verified. First it
    is proved that lost, overwritten and misplaced blocks, and a damaged file system, are
    found. Each disk must be one map, with a path of priority 50 by its owner and one of
    priority 1 by each other daemon. After each fault both loads must go on without an
    error, and all paths must be as before; at the end fio reads again, e2fsck finds
    nothing, each file has its sum, and the host's kernel logged no error of a map or of
    ext4.

    For example::

        roles:
        - [mon.a, mgr.x, osd.0, osd.1, osd.2, client.0]
        - [lus.a]
        - [lus.b]
        tasks:
        - install:
        - ceph:
        - lusd:
        - lus_multipath:
            faults: [kill, cut-both]

    Keys, all optional; `overrides: lus_multipath:` is merged into them:

        client: client.0        whose machine has the host
        faults: [drain, restart]    those of lus_failover, and
            kill-all            SIGKILL to every daemon: all I/O waits until they are back,
                                and ends well; at the end, without queueing, it must not
        rounds: number of daemons   of each fault; a round is for the next daemon
        seconds: 60             as with lus_failover

    The longest stalls are logged; none is too long. They are those of a machine that may be
    emulated.
    """
    config = _merged(ctx, config)
    role = config["client"]
    (remote,) = ctx.cluster.only(role).remotes
    with _host(ctx, remote, role) as machine, remote_client.disks(remote, IQN, IMAGES, SIZE_MIB):
        _Run(ctx, remote, linux_host.LinuxHost(machine, log.info)).run(config)


def _merged(ctx, config):
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError("task lus_multipath only supports a dictionary for configuration")
    config = misc.deep_merge(dict(config), ctx.config.get("overrides", {}).get("lus_multipath", {}))
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise ConfigError("task lus_multipath does not know %s" % ", ".join(unknown))
    config = dict(DEFAULTS, **config)
    wrong = sorted(set(config["faults"]) - set(FAULTS))
    if wrong or not config["faults"]:
        raise ConfigError("task lus_multipath: the faults are some of %s, not %s" % (", ".join(FAULTS), ", ".join(wrong)))
    return config


# The host


@contextlib.contextmanager
def _host(ctx, remote, role):
    """
    The host, as linux_host takes it. Here it is a virtual machine; on a lab it would be the
    client's machine itself: an object whose `run` is the remote's with `sudo` before the
    words, and nothing to start or to end.
    """
    folder = "%s/vm.%s" % (misc.get_testdir(ctx), role)
    archive = "%s/vm.%s.console" % (misc.get_archive_dir(ctx), role)
    try:
        remote.run(args=[VM, "up", folder])
        yield _VirtualMachine(remote, folder)
    finally:
        remote.run(args=["cp", folder + "/console", archive], check_status=False)
        remote.run(args=[VM, "down", folder])


class _VirtualMachine:
    """
    Runs commands in the machine that qa/vm started
    """

    def __init__(self, remote, folder):
        self.remote = remote
        self.folder = folder

    def run(self, words, stdin, seconds):
        args = [VM, "exec", "--timeout", str(seconds), self.folder] + words
        done = self.remote.run(args=args, stdin=stdin, stdout=io.BytesIO(), stderr=io.BytesIO(), check_status=False)
        out, err = (stream.getvalue().decode(errors="replace") for stream in (done.stdout, done.stderr))
        if done.exitstatus != 0:
            raise linux_host.Broken("`%s` in the host ended with %s: %s" % (" ".join(words), done.exitstatus, (err or out).strip()))
        return out


class _Run:
    """
    The host, the daemons, and what is between them
    """

    def __init__(self, ctx, remote, host):
        self.ctx = ctx
        self.remote = remote
        self.host = host
        self.ids = lusd.daemon_ids(ctx)
        self.portals = [lusd.portal(ctx, id_) for id_ in self.ids]

    def run(self, config):
        self._spread()
        self.host.install()
        self.host.login(IQN, self.portals[0])
        self._wait_for_paths("after the login")
        self.host.prove(RAW, FILES)
        self.host.begin(RAW, FILES)
        for name in config["faults"]:
            for number in range(config["rounds"] or len(self.ids)):
                self._round(name, self.ids[number % len(self.ids)], config["seconds"])
        passes = self.host.end()
        log.info("no error; passes of fio verified and files compared: %s", passes)
        if "kill-all" in config["faults"]:
            fault = self._fault("kill-all", self.ids[0], config["seconds"])
            self.host.require_error(RAW, lambda: fault.befall([]), fault.undo)
            self._wait_for_paths("after the error")
        self.host.logout()

    def _spread(self):
        """
        An LU for each daemon in turn, so that each has something to lose
        """
        owners = self._owners()
        for lun, image in enumerate(IMAGES):
            id_ = self.ids[lun % len(self.ids)]
            if lun not in owners[id_]:
                remote_client.lus(self.remote, "lu", "move", image, id_)

    def _owners(self):
        return remote_client.served(self.remote, self.ids, IMAGES)

    def _owner_portals(self):
        """
        {LUN: portals of its owner}, as it is now
        """
        return {lun: [lusd.portal(self.ctx, id_)] for id_, luns in self._owners().items() for lun in luns}

    def _wait_for_paths(self, when):
        log.info("all paths are right %s: %.0f s", when, self.host.wait_for_paths(self._owner_portals, self.portals, PATHS_SECONDS))

    def _fault(self, name, id_, seconds):
        fault = FAULTS[name](self.ctx, self.remote, IMAGES, seconds)
        fault.choose = lambda owners: id_
        return fault

    def _round(self, name, id_, seconds):
        fault = self._fault(name, id_, seconds)
        self.host.stalls()
        luns = fault.strike(lambda: None)
        if name == "kill-all":
            self.host.require_silence(SILENCE_SECONDS)
        else:
            self._wait_until_gone(fault, id_, luns)
            self.host.wait_for_passes(PASSES, PASSES_SECONDS)
        fault.heal()
        self.host.wait_for_passes(PASSES, PASSES_SECONDS)
        log.info("lus.%s %s: longest stall of fio %d ms, of a file %d ms", id_, fault.name, *self.host.stalls())
        self._wait_for_paths("after lus.%s was %s" % (id_, fault.name))

    def _wait_until_gone(self, fault, id_, luns):
        """
        Until the daemon's LUs are served by others, where the fault is one that moves them
        """
        end = time.monotonic() + fault.patience
        while set(self._owners()[id_]) & set(luns):
            if time.monotonic() > end:
                raise linux_host.Broken("LUNs %s are still with lus.%s after %d s" % (luns, id_, fault.patience))
            time.sleep(POLL_SECONDS)


# What befalls daemons


class KillAll(lus_failover.Fault):
    """
    All crash
    """

    name = "killed with all others"
    moves = False

    def befall(self, luns):
        for id_ in lusd.daemon_ids(self.ctx):
            lusd.kill_daemon(self.ctx, id_)

    def undo(self):
        for id_ in lusd.daemon_ids(self.ctx):
            lusd.start_daemon(self.ctx, id_)


FAULTS = dict(lus_failover.FAULTS, **{"kill-all": KillAll})
