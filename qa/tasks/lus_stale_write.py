"""
Let a daemon go on with writes that its host gave up on
"""
import json
import logging
import pathlib
import random
import signal
import sys
import time

from tasks import lusd
from teuthology import misc
from teuthology.exceptions import ConfigError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import kill_rounds  # noqa: E402
import remote_client  # noqa: E402
import stale_rounds  # noqa: E402

log = logging.getLogger(__name__)

DEFAULTS = {
    "client": "client.0",
    "kind": "inside",
    "rounds": 1,
    "disks": 5,
    "depth": 8,
    "seed": None,
}
IQN = "iqn.2026-11.io.lus.qa:stale"
IMAGE = "rbd/qa-stale-%d"
SIZE_MIB = 4
CLIENT_SECONDS = 600
# Longer than the pauses after which RADOS' messengers connect anew (15 s), and TCP sends again.
SETTLE_SECONDS = 20
# A fence is for years.
FENCED_DAYS = 365
POLL_SECONDS = 0.3


def task(ctx, config):
    """
    Let the daemon that owns most LUs stand still, or cut it off from Ceph, with writes
    inside; write newer data to the same blocks through the other daemon, which took the
    LUs over; let the old one go on: the newer data must stand.

    The client (qa/clients/stale.c, compiled on the client's machine) holds the old
    connection all the while: it must end, without an answer of GOOD. What stands is read
    through the new daemon and by `rbd export`. The RADOS client by which the old daemon
    held each LU must be on the blocklist, for years. First it is proved that an old write
    would be found: one is planted. No daemon is moved to meanwhile (`lus set nomove`).

    For example::

        tasks:
        - install:
        - ceph:
        - lusd:
        - lus_stale_write:
            kind: librbd
            rounds: 20

    Keys, all optional; `overrides: lus_stale_write:` is merged into them:

        client: client.0        where the client runs
        kind: inside            where the writes are:
            socket              in the socket: SIGSTOP, and then they are sent
            inside              anywhere: SIGSTOP at a random moment of a load
            librbd              in librbd, which cannot send them: cut off from Ceph, and
                                SIGSTOP once they are there
            cut                 anywhere, and the daemon runs on: cut off from Ceph at a
                                random moment of a load
                                the last two need `overrides: {lusd: {cuts: true}}`
        rounds: 1
        disks: 5
        depth: 8                blocks of each disk; there is one write to each
        seed: a random number   of the moments; it is logged
    """
    config = _merged(ctx, config)
    role = config["client"]
    (remote,) = ctx.cluster.only(role).remotes
    seed = random.SystemRandom().getrandbits(32) if config["seed"] is None else int(config["seed"])
    log.info("seed %d", seed)
    images = [IMAGE % number for number in range(config["disks"])]
    with remote_client.compiled(ctx, remote, role, "stale") as folder, remote_client.disks(remote, IQN, images, SIZE_MIB):
        host = remote_client.Host(remote, folder, "stale", CLIENT_SECONDS)
        gateway = _Gateway(ctx, remote, images, folder)
        remote_client.lus(remote, "set", "nomove")
        try:
            with remote_client.kept(ctx, remote, role, folder, "stale") as path:
                rounds = stale_rounds.Rounds(host, gateway, IQN, path, log.info)
                rounds.run(config["kind"], config["rounds"], random.Random(seed), config["depth"])
        finally:
            remote_client.lus(remote, "unset", "nomove")


def _merged(ctx, config):
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError("task lus_stale_write only supports a dictionary for configuration")
    config = misc.deep_merge(dict(config), ctx.config.get("overrides", {}).get("lus_stale_write", {}))
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise ConfigError("task lus_stale_write does not know %s" % ", ".join(unknown))
    config = dict(DEFAULTS, **config)
    if config["kind"] not in stale_rounds.KINDS:
        raise ConfigError("task lus_stale_write: the kind is one of %s, not %s" % (", ".join(stale_rounds.KINDS), config["kind"]))
    return config


class _Gateway:
    """
    Two daemons, as the rounds of qa/lib take them
    """

    def __init__(self, ctx, remote, images, folder):
        if len(lusd.daemon_ids(ctx)) != 2:
            raise ConfigError("task lus_stale_write takes two daemons")
        self.ctx = ctx
        self.remote = remote
        self.images_of_luns = images
        self.folder = folder
        self.victim = None
        self.luns = []
        self.holders = []
        self.before = 0

    def begin(self):
        owners = self._served()
        self.victim = max(owners, key=lambda id_: len(owners[id_]))
        self.luns = owners[self.victim]
        self.before = lusd.up_from(self.ctx, self.victim)
        infos = [json.loads(remote_client.lus(self.remote, "lu", "info", self.images_of_luns[lun], "-f", "json")) for lun in self.luns]
        self.holders = sorted({info["record"]["holder"]["addr"] for info in infos})
        log.info("lus.%s has the LUNs %s, by %s", self.victim, self.luns, ", ".join(self.holders))
        return lusd.portal(self.ctx, self.victim), self.luns

    def stop(self):
        lusd.signal_daemon(self.ctx, self.victim, signal.SIGSTOP)

    def resume(self):
        lusd.signal_daemon(self.ctx, self.victim, signal.SIGCONT)

    def cut(self):
        lusd.cut_daemon(self.ctx, self.victim, "ceph")

    def heal(self):
        lusd.heal_daemon(self.ctx, self.victim)

    def other(self):
        (other,) = [id_ for id_ in lusd.daemon_ids(self.ctx) if id_ != self.victim]
        end = time.monotonic() + remote_client.SERVED_SECONDS
        while not set(self.luns) <= set(self._served()[other]):
            if time.monotonic() > end:
                raise kill_rounds.Broken("the LUNs %s do not go on at lus.%s" % (self.luns, other))
            time.sleep(POLL_SECONDS)
        return lusd.portal(self.ctx, other)

    def settle(self):
        # It finds that it was declared down, and registers anew.
        lusd.wait_until_up(self.ctx, self.victim, self.before)
        time.sleep(SETTLE_SECONDS)

    def images(self):
        files = []
        for lun in self.luns:
            files.append("%s/image.%d" % (self.folder, lun))
            self.remote.run(args=["rm", "-f", "--", files[-1]])
            self.remote.run(args=["sudo", "rbd", "--cluster", "ceph", "export", "--no-progress", self.images_of_luns[lun], files[-1]])
            self.remote.run(args=["sudo", "chmod", "a+r", "--", files[-1]])
        return files

    def fenced(self):
        listed = self.remote.sh(["sudo", "ceph", "--cluster", "ceph", "osd", "blocklist", "ls", "-f", "json"])
        # A second list follows, of networks.
        fences, _ = json.JSONDecoder().raw_decode(listed.lstrip())
        until = {fence["addr"]: fence["until"] for fence in fences}
        least = time.strftime("%Y-%m-%d", time.gmtime(time.time() + FENCED_DAYS * 86400))
        for holder in self.holders:
            if until.get(holder, "") < least:
                raise kill_rounds.Broken("the client %s of the old daemon is not fenced: %s" % (holder, until))
        log.info("fenced: %s", {holder: until[holder] for holder in self.holders})

    def _served(self):
        return remote_client.served(self.remote, lusd.daemon_ids(self.ctx), self.images_of_luns)
