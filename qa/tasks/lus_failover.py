"""
Disturb daemons under a host with several paths
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
import path_rounds  # noqa: E402
import remote_client  # noqa: E402

log = logging.getLogger(__name__)

DEFAULTS = {
    "client": "client.0",
    "fault": "kill",
    "rounds": 3,
    "disks": 6,
    "seconds": 60,
    "writers": 4,
    "largest": 96,
    "seed": None,
    "limits": {"noop": 1, "noop-timeout": 2, "replacement-timeout": 1},
}
IQN = "iqn.2026-11.io.lus.qa:failover"
IMAGE = "rbd/qa-failover-%d"
SIZE_MIB = 16
# What the client writes to of each: few enough blocks that they are rewritten often.
BLOCKS = 2048
CLIENT_SECONDS = 3600
# A daemon that stands still or is cut off stays so for as long, when its LUs have gone on elsewhere.
STOPPED_SECONDS = 3
# Busy processes for each processor.
BUSY = 4
# As many as are looked at.
EVENTS = 1000
# Hosts do not reach it for as long.
CUT_SECONDS = 10


def task(ctx, config):
    """
    Disturb the daemon that owns most LUs, again and again, while a host with a path to
    every daemon writes to all of them: nothing may be lost, and no error may reach it.

    The client (qa/clients/multipath.c, compiled on the client's machine) goes by the path
    whose target port group is in the best state, as dm-multipath does, and logs what it
    submitted and what was acknowledged. First it is proved that this can fail: losses of
    each kind are planted past the log, and each must be found. Then it writes without a
    break through all rounds, and every block is compared with the log.

    For example::

        tasks:
        - install:
        - ceph:
        - lusd:
        - lus_failover:
            fault: stop
            rounds: 20

    Keys, all optional; `overrides: lus_failover:` is merged into them:

        client: client.0        where the client runs
        fault: kill             what befalls the daemon, each round:
            restart             SIGTERM, a clean end, start
            crash               SIGKILL, and a start at once
            kill                SIGKILL; started when its LUs went on by other paths
            stop                SIGSTOP; SIGCONT when they did
            move                `lus lu move` of each of its LUs
            drain               `lus daemon drain`; `lus daemon in` when they did
            cut-ceph            cut off from Ceph, silently; healed when they did
            cut-both            from Ceph and from hosts; healed when they did
            cut-public          from hosts, for 10 s: its LUs stay with it, and wait
                                cuts need `overrides: {lusd: {cuts: true}}`
            osd-pause           `ceph osd pause` for `seconds`: nothing may come of it. The
                                client's limit give-up must be longer
            overload            four busy processes for each processor of each machine with
                                a daemon, for `seconds`: nothing may come of it
        seconds: 60             of the last two
        rounds: 3
        disks: 6
        writers: 4              of each disk, with a command each
        largest: 96             blocks of 4 KiB of the largest write; four in five have one
        seed: a random number   of the moments and of what is written; it is logged
        limits:                 the client's (its first lines name them), in seconds.
          noop: 1               With these the figures are LUS' own, and not how long a host
          noop-timeout: 2       waits for a daemon that is gone. They stay as they are
          replacement-timeout: 1    where only others are given

    How long it takes until the first GOOD by another path, and the longest time without a
    GOOD, are logged for each round. They are figures: none is too long, but that an LU
    that does not go on at all fails the job.
    """
    config = _merged(ctx, config)
    role = config["client"]
    (remote,) = ctx.cluster.only(role).remotes
    dice = random.Random(_seed(config))
    images = [IMAGE % number for number in range(config["disks"])]
    limits = [word for name, value in config["limits"].items() for word in ("--" + name, str(value))]
    options = ["--blocks", BLOCKS]
    where = [",".join(lusd.portal(ctx, id_) for id_ in lusd.daemon_ids(ctx)), IQN, ",".join(str(lun) for lun in range(len(images)))]
    with remote_client.compiled(ctx, remote, role, "multipath") as folder, remote_client.disks(remote, IQN, images, SIZE_MIB):
        seconds = CLIENT_SECONDS + config["rounds"] * config["seconds"]
        host = remote_client.Host(remote, folder, "multipath", seconds)
        fault = FAULTS[config["fault"]](ctx, remote, images, config["seconds"])
        with remote_client.kept(ctx, remote, role, folder, "multipath") as path:
            rounds = path_rounds.Rounds(host, where, path, log.info, limits)
            rounds.prove(*options)
            rounds.run(fault, config["rounds"], dice, *options, "--writers", config["writers"], "--largest", config["largest"], "--seconds", seconds)


def _merged(ctx, config):
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError("task lus_failover only supports a dictionary for configuration")
    config = misc.deep_merge(dict(config), ctx.config.get("overrides", {}).get("lus_failover", {}))
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise ConfigError("task lus_failover does not know %s" % ", ".join(unknown))
    config = dict(DEFAULTS, **config)
    config["limits"] = dict(DEFAULTS["limits"], **config["limits"])
    if config["fault"] not in FAULTS:
        raise ConfigError("task lus_failover: the fault is one of %s, not %s" % (", ".join(FAULTS), config["fault"]))
    return config


def _seed(config):
    seed = random.SystemRandom().getrandbits(32) if config["seed"] is None else int(config["seed"])
    log.info("seed %d", seed)
    return seed


class Fault:
    """
    What befalls a daemon, as path_rounds takes it. The LUNs that must go on by another path are those of the daemon.
    """

    name = None
    # Seconds until they do.
    patience = 90

    def __init__(self, ctx, remote, images, seconds):
        if len(lusd.daemon_ids(ctx)) < 2:
            raise ConfigError("task lus_failover: there is no other daemon")
        self.ctx = ctx
        self.remote = remote
        self.images = images
        self.seconds = seconds
        self.victim = None

    def strike(self, mark):
        owners = self.served()
        self.victim = self.choose(owners)
        luns = owners[self.victim]
        log.info("lus.%s, which has the LUNs %s, is %s", self.victim, luns, self.name)
        self.before = lusd.up_from(self.ctx, self.victim)
        mark()
        self.befall(luns)
        return luns if self.moves else []

    def choose(self, owners):
        """
        The daemon that it befalls
        """
        return max(owners, key=lambda id_: len(owners[id_]))

    def heal(self):
        self.undo()
        self.served()

    def served(self):
        """
        Wait until every LU is; who serves which LUNs
        """
        return remote_client.served(self.remote, lusd.daemon_ids(self.ctx), self.images)

    # What each kind is.

    # Whether its LUs go elsewhere.
    moves = True

    def befall(self, luns):
        raise NotImplementedError

    def undo(self):
        pass


class Restart(Fault):
    """
    A clean end and a start
    """

    name = "restarted"
    moves = False

    def befall(self, luns):
        lusd.stop_daemon(self.ctx, self.victim)
        lusd.start_daemon(self.ctx, self.victim)


class Crash(Fault):
    """
    A crash after which something starts it at once
    """

    name = "killed and started"
    moves = False

    def befall(self, luns):
        lusd.kill_daemon(self.ctx, self.victim)
        lusd.start_daemon(self.ctx, self.victim)


class Kill(Fault):
    """
    A crash
    """

    name = "killed"

    def befall(self, luns):
        lusd.kill_daemon(self.ctx, self.victim)

    def undo(self):
        lusd.start_daemon(self.ctx, self.victim)


class Stop(Fault):
    """
    It stands still, and then goes on, with what it had in its hands
    """

    name = "stopped"

    def befall(self, luns):
        lusd.signal_daemon(self.ctx, self.victim, signal.SIGSTOP)

    def undo(self):
        time.sleep(STOPPED_SECONDS)
        lusd.signal_daemon(self.ctx, self.victim, signal.SIGCONT)
        # It finds that it was declared down, and registers anew.
        lusd.wait_until_up(self.ctx, self.victim, self.before)


class CutCeph(Fault):
    """
    Ceph does not reach it, nor it Ceph; hosts do
    """

    name = "cut off from Ceph"
    network = "ceph"

    def befall(self, luns):
        lusd.cut_daemon(self.ctx, self.victim, self.network)

    def undo(self):
        time.sleep(STOPPED_SECONDS)
        lusd.heal_daemon(self.ctx, self.victim)
        # It finds that it was declared down, and registers anew.
        lusd.wait_until_up(self.ctx, self.victim, self.before)


class CutBoth(CutCeph):
    """
    Nobody reaches it
    """

    name = "cut off"
    network = "both"


class CutPublic(Fault):
    """
    Hosts do not reach it, but the other daemons know that it lives: its LUs stay, and their writes wait
    """

    name = "cut off from hosts"
    moves = False

    def befall(self, luns):
        lusd.cut_daemon(self.ctx, self.victim, "public")

    def undo(self):
        time.sleep(CUT_SECONDS)
        lusd.heal_daemon(self.ctx, self.victim)


class Move(Fault):
    """
    Its LUs are given to the others, in turn
    """

    name = "rid of its LUs"

    def befall(self, luns):
        others = [id_ for id_ in lusd.daemon_ids(self.ctx) if id_ != self.victim]
        for lun in luns:
            remote_client.lus(self.remote, "lu", "move", self.images[lun], others[lun % len(others)])


class Drain(Fault):
    """
    It is put out, and later in
    """

    name = "drained"

    def befall(self, luns):
        remote_client.lus(self.remote, "daemon", "drain", self.victim)

    def undo(self):
        remote_client.lus(self.remote, "daemon", "in", self.victim)


class Calm(Fault):
    """
    What nobody may be judged for, and no LU may go elsewhere
    """

    moves = False
    # Of `lus events`.
    kinds = ("verdict", "failover", "move", "fence", "register", "retire")

    def strike(self, mark):
        self.happened = self.events()
        return super().strike(mark)

    def heal(self):
        super().heal()
        new = [event for event in self.events() if event not in self.happened]
        if new:
            raise path_rounds.Broken("the daemons were %s, and this came of it: %s" % (self.name, new))
        log.info("nothing came of it: no verdict, no LU elsewhere")

    def events(self):
        """
        What happened so far, but for who leads
        """
        events = json.loads(remote_client.lus(self.remote, "events", str(EVENTS), "-f", "json"))
        return [(event["epoch"], event["kind"], event["subject"], event["reason"]) for event in events if event["kind"] in self.kinds]


class OsdPause(Calm):
    """
    RADOS stands still, for everybody
    """

    name = "without an answer of RADOS"

    def befall(self, luns):
        self.ceph("pause")
        time.sleep(self.seconds)

    def undo(self):
        self.ceph("unpause")

    def ceph(self, verb):
        (mon,) = self.ctx.cluster.only(misc.get_first_mon(self.ctx, {}, "ceph")).remotes
        mon.run(args=["sudo", "ceph", "--cluster", "ceph", "osd", verb])


class Overload(Calm):
    """
    The daemons' machines have more to do than they can
    """

    name = "short of processors"

    def befall(self, luns):
        remotes = {}
        for id_ in lusd.daemon_ids(self.ctx):
            remote = self.ctx.lusd[id_]["remote"]
            # Remotes may be one machine.
            remotes[remote.sh(["cat", "/proc/sys/kernel/random/boot_id"])] = remote
        script = "for i in $(seq $((%d * $(nproc)))); do timeout %d sh -c 'while :; do :; done' & done; wait" % (BUSY, self.seconds)
        for proc in [remote.run(args=["sh", "-c", script], wait=False) for remote in remotes.values()]:
            proc.wait()


FAULTS = {
    "restart": Restart,
    "crash": Crash,
    "kill": Kill,
    "stop": Stop,
    "move": Move,
    "drain": Drain,
    "cut-ceph": CutCeph,
    "cut-both": CutBoth,
    "cut-public": CutPublic,
    "osd-pause": OsdPause,
    "overload": Overload,
}
