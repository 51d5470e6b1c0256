"""
Run LUS daemons (lusd)
"""

import contextlib
import json
import logging
import signal
import time

from teuthology import misc
from teuthology.exceptions import CommandFailedError, ConfigError, ConnectionLostError
from teuthology.orchestra import run

log = logging.getLogger(__name__)

TYPE = "lus"
MAP_POOL = ".lus"
# What a daemon may, beside its pools: `profile rbd` of the monitors has the blocklist.
CAPS_MON = "allow profile rbd, allow r, allow command 'config-key get' with key prefix 'lus/'"
CAPS_MGR = "profile rbd"
# A portal's port where nothing else is configured: iSCSI's own.
PORT_BASE = 3260
START_SECONDS = 60
# lusd itself gives up draining before (lus_drain_timeout).
STOP_SECONDS = 60
POLL_SECONDS = 0.2
NETWORKS = ("ceph", "public", "both")
HOST_KEYS = {"cut", "heal", "address", "enter"}

DEFAULTS = {
    "daemons": None,
    "pools": ["rbd"],
    "data_pools": [],
    "conf": {},
    "port_base": PORT_BASE,
    "portals": 1,
    "addresses": [],
    "cuts": False,
    "hosts": {},
    "data_dir": "/var/lib/ceph/lus",
    "log_dir": "/var/log/ceph",
    "pid_dir": "/run/ceph",
}


@contextlib.contextmanager
def task(ctx, config):
    """
    Run one lusd for each role lus.ID, with the cephx user client.lus.ID.

    It makes the pool of the LUS map (.lus) and the pools for images where they are
    missing, users and keyrings, starts the daemons in the foreground, and goes on when
    the LUS map has them all as up. At the end they get SIGTERM: one that ended before,
    or that does not exit with 0, fails the job.

    For example::

        roles:
        - [mon.a, mgr.x, osd.0, lus.a, lus.b, client.0]
        tasks:
        - install:
        - ceph:
        - lusd:
            pools: [rbd, fast]
            data_pools: [ec]
            conf:
              lus_data_memory: 64M

    Keys, all optional; `overrides: lusd:` is merged into them:

        daemons: [a, b]     these roles only
        pools: [rbd]        pools for images; made where they are missing
        data_pools: []      pools for the data of images, for the daemons' rights only;
                            who needs an erasure coded one makes it first (`exec`)
        conf: {}            options of lusd
        port_base: 3260     portal of the first daemon of a machine; the next ones follow
        portals: 1          of each daemon, at each of its addresses, one port beside the
                            other
        addresses: []       of each daemon's machine, beside the one that it is reached by:
                            "::1" where it is the hosts' machine, too
        data_dir, log_dir, pid_dir
        cuts: false         daemons are to be cut off from their networks; each must then
                            be alone on its machine, and have an entry in `hosts`
        hosts: {}           how that is done, by daemon::

            a:
              cut: [/root/cut]      run on its machine, with one more word: the network
                                    that is to carry nothing from now on, in neither
                                    direction and without a word to anybody: ceph (to
                                    Ceph and the other daemons), public (to iSCSI
                                    hosts) or both
              heal: [/root/heal]    the end of all cuts
              address: 192.0.2.7    of its portal, if not its machine's
              enter: []             words before its command line

    On a lab whoever schedules the job gives `hosts`: `cut` is a script that adds a rule
    -j DROP for each direction and the network's ports (iptables on the daemon's machine),
    `heal` one that removes them. qa/run fills it in, with network namespaces.

    While it runs::

        - lusd.restart: [a]     SIGTERM, a clean end, start
        - lusd.stop: [a]        SIGTERM, a clean end
        - lusd.kill: [a]        SIGKILL
        - lusd.start: [a]
        - lusd.cut: {a: ceph}   or public, or both
        - lusd.heal: [a]

    Without a list they are for all daemons. They end when the map says what they did,
    but for kill, cut and heal: nothing in the map says at once what became of a daemon.
    """
    config = _merged(ctx, config)
    roles = _roles(ctx, config)
    _require_hosts(ctx, config, roles)
    ctx.lusd = {}
    _make_pools(ctx, config)
    for id_, (remote, port) in roles.items():
        ctx.lusd[id_] = _prepare(ctx, config, id_, remote, port)
    with _running(ctx):
        yield


def restart(ctx, config):
    """
    Stop daemons in order and start them again
    """
    for id_ in daemon_ids(ctx, config):
        stop_daemon(ctx, id_)
        start_daemon(ctx, id_)


def stop(ctx, config):
    """
    Stop daemons in order
    """
    for id_ in daemon_ids(ctx, config):
        stop_daemon(ctx, id_)


def kill(ctx, config):
    """
    Kill daemons
    """
    for id_ in daemon_ids(ctx, config):
        kill_daemon(ctx, id_)


def start(ctx, config):
    """
    Start daemons that were stopped or killed
    """
    for id_ in daemon_ids(ctx, config):
        start_daemon(ctx, id_)


def cut(ctx, config):
    """
    Cut daemons off: {daemon: network}
    """
    for id_, network in (config or {}).items():
        cut_daemon(ctx, id_, network)


def heal(ctx, config):
    """
    Heal daemons that were cut off
    """
    for id_ in daemon_ids(ctx, config):
        heal_daemon(ctx, id_)


# For other tasks


def daemon_ids(ctx, config=None):
    """
    The ids that a list of `a` or `lus.a` names; of all daemons for None

    :raises: :class:`ConfigError` for a daemon that the task lusd does not run
    """
    if config is None:
        return list(ctx.lusd)
    ids = [name[len(TYPE) + 1 :] if name.startswith(TYPE + ".") else name for name in config]
    for id_ in ids:
        if id_ not in ctx.lusd:
            raise ConfigError(f"there is no daemon {TYPE}.{id_}")
    return ids


def portal(ctx, id_):
    """
    ADDRESS:PORT at which a daemon listens, the first of its portals
    """
    return ctx.lusd[id_]["portal"]


def start_daemon(ctx, id_, wait=True):
    """
    Start a daemon; with `wait`, until the LUS map has this very instance as up

    :raises: :class:`RuntimeError` if it ends or is not up within START_SECONDS
    """
    daemon = _daemon(ctx, id_)
    if daemon.running():
        raise RuntimeError(f"lus.{id_} runs already")
    before = up_from(ctx, id_)
    daemon.restart()
    if wait:
        wait_until_up(ctx, id_, before)


def wait_until_up(ctx, id_, after=0):
    """
    Wait until the map has a daemon as up, registered in an epoch later than `after`
    """
    daemon = _daemon(ctx, id_)
    end = time.monotonic() + START_SECONDS
    while True:
        shown = _in_map(ctx, id_)
        if shown.get("state") == "up" and shown["up_from"] > after:
            log.info("lus.%s is up since epoch %d", id_, shown["up_from"])
            return
        if daemon.finished():
            raise RuntimeError(f"lus.{id_} ended while it started, with status {_reap(daemon)}")
        if time.monotonic() > end:
            raise RuntimeError(f"lus.{id_} is not up after {START_SECONDS} s; the map has {shown}")
        time.sleep(POLL_SECONDS)


def stop_daemon(ctx, id_):
    """
    SIGTERM, and wait for the end

    :raises: :class:`RuntimeError` if it ended before, does not end, or does not exit with 0
    """
    daemon = _daemon(ctx, id_)
    if daemon.finished():
        status = _reap(daemon)
        raise RuntimeError(f"lus.{id_} ended by itself, with status {status}")
    daemon.signal(signal.SIGTERM)
    if not _ended(daemon, STOP_SECONDS):
        kill_daemon(ctx, id_)
        raise RuntimeError(f"lus.{id_} did not end within {STOP_SECONDS} s of SIGTERM")
    status = _reap(daemon)
    if status != 0:
        raise RuntimeError(f"lus.{id_} did not end well: status {status} after SIGTERM")


def kill_daemon(ctx, id_):
    """
    SIGKILL, and wait for the end

    :raises: :class:`RuntimeError` if it had ended before
    """
    daemon = _daemon(ctx, id_)
    if daemon.finished():
        status = _reap(daemon)
        raise RuntimeError(f"lus.{id_} ended by itself, with status {status}")
    daemon.signal(signal.SIGKILL)
    if not _ended(daemon, STOP_SECONDS):
        raise RuntimeError(f"lus.{id_} did not end on SIGKILL")
    _reap(daemon)


def signal_daemon(ctx, id_, sig):
    """
    Send a signal that does not end a daemon

    :raises: :class:`RuntimeError` if it had ended before
    """
    daemon = _daemon(ctx, id_)
    if daemon.finished():
        raise RuntimeError(f"lus.{id_} ended by itself, with status {_reap(daemon)}")
    daemon.signal(sig)


def cut_daemon(ctx, id_, network):
    """
    Cut a daemon off: `network` is ceph, public or both

    :raises: :class:`ConfigError` without the key `cuts`
    """
    if network not in NETWORKS:
        raise ConfigError(f"there is no network {network}; there are {', '.join(NETWORKS)}")
    _run_on_host(ctx, id_, "cut", network)
    ctx.lusd[id_]["is_cut"] = True


def heal_daemon(ctx, id_):
    """
    The end of all cuts of a daemon

    :raises: :class:`ConfigError` without the key `cuts`
    """
    _run_on_host(ctx, id_, "heal")
    ctx.lusd[id_]["is_cut"] = False


def up_from(ctx, id_):
    """
    The epoch of the map in which a daemon registered; 0 for one that never did
    """
    return _in_map(ctx, id_).get("up_from", 0)


# Parts of the task


def _merged(ctx, config):
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError("task lusd only supports a dictionary for configuration")
    overrides = ctx.config.get("overrides", {})
    config = misc.deep_merge(dict(config), overrides.get("lusd", {}))
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise ConfigError(f"task lusd does not know {', '.join(unknown)}")
    return dict(DEFAULTS, **config)


def _roles(ctx, config):
    """
    The remote and the port of each daemon, by id
    """
    found = {}
    for remote, roles in ctx.cluster.remotes.items():
        ids = [id_ for id_ in misc.roles_of_type(roles, TYPE) if config["daemons"] is None or id_ in config["daemons"]]
        for number, id_ in enumerate(ids):
            found[id_] = (remote, config["port_base"] + number * config["portals"])
    missing = sorted(set(config["daemons"] or []) - set(found))
    if missing or not found:
        raise ConfigError(f"no role for lusd: {', '.join('lus.' + id_ for id_ in missing or ['*'])}")
    return {id_: found[id_] for id_ in config["daemons"] or sorted(found)}


def _require_hosts(ctx, config, roles):
    """
    Where daemons are to be cut off, each is alone on its machine, and it is known how
    """
    if not config["cuts"]:
        return
    for id_, (remote, _) in roles.items():
        others = [role for role in ctx.cluster.remotes[remote] if role != f"{TYPE}.{id_}"]
        host = config["hosts"].get(id_, {})
        if others:
            raise ConfigError(f"task lusd: {', '.join(others)} would be cut off with {TYPE}.{id_}")
        if not {"cut", "heal"} <= set(host) <= HOST_KEYS:
            raise ConfigError(f"task lusd: nobody says how {TYPE}.{id_} is cut off (key hosts): {host}")


def _run_on_host(ctx, id_, what, *words):
    (id_,) = daemon_ids(ctx, [id_])
    daemon = ctx.lusd[id_]
    if what not in daemon["host"]:
        raise ConfigError(f"{TYPE}.{id_} cannot be cut off: the task lusd has no key `cuts: true`")
    daemon["remote"].run(args=["sudo"] + daemon["host"][what] + list(words))


def _first_mon(ctx):
    (remote,) = ctx.cluster.only(misc.get_first_mon(ctx, {}, "ceph")).remotes
    return remote


def _ceph(ctx, *words):
    # Quiet: some answers are keys.
    return _first_mon(ctx).sh(["sudo", "ceph", "--cluster", "ceph"] + list(words), quiet=True)


def _make_pools(ctx, config):
    there = json.loads(_ceph(ctx, "osd", "pool", "ls", "-f", "json"))
    sure = "--yes-i-really-mean-it"
    if MAP_POOL not in there:
        _ceph(ctx, "osd", "pool", "create", MAP_POOL, sure)
        _ceph(ctx, "osd", "pool", "application", "enable", MAP_POOL, "lus", sure)
    for pool in config["pools"]:
        if pool not in there:
            _ceph(ctx, "osd", "pool", "create", pool)
            _first_mon(ctx).run(args=["sudo", "rbd", "--cluster", "ceph", "pool", "init", pool])


def _prepare(ctx, config, id_, remote, port):
    """
    User, keyring and command line of one daemon; returns what other functions look up
    """
    entity = "client.lus." + id_
    keyring = _ceph(ctx, "auth", "get-or-create", entity)
    osd = [f"profile rbd pool={pool}" for pool in config["pools"] + config["data_pools"]] + [f"allow rwx pool={MAP_POOL}"]
    _ceph(ctx, "auth", "caps", entity, "mon", CAPS_MON, "mgr", CAPS_MGR, "osd", ", ".join(osd))
    data_dir = f"{config['data_dir']}/ceph-{id_}"
    remote.run(args=["sudo", "mkdir", "-p", data_dir, config["log_dir"], config["pid_dir"]])
    remote.sudo_write_file(data_dir + "/keyring", keyring, mode="0600")
    host = config["hosts"].get(id_, {}) if config["cuts"] else {}
    portals = _portals(config, host.get("address", remote.ip_address), port)
    flags = {
        "--keyring": data_dir + "/keyring",
        "--lus-portal": ",".join(portals),
        "--log-file": f"{config['log_dir']}/ceph-{entity}.log",
        "--pid-file": f"{config['pid_dir']}/lus.{id_}.pid",
        **{"--" + name.replace("_", "-").replace(" ", "-"): str(value) for name, value in config["conf"].items()},
    }
    coverage = f"{misc.get_testdir(ctx)}/archive/coverage"
    args = ["sudo", "adjust-ulimits", "ceph-coverage", coverage, "daemon-helper", "term"]
    args += host.get("enter", []) + ["lusd", "-f", "--cluster", "ceph", "-i", id_]
    return {"remote": remote, "portal": portals[0], "host": host, "is_cut": False, "args": args + [word for flag in flags.items() for word in flag]}


def _portals(config, address, port):
    """
    Where a daemon listens: at its machine's address and all others the same ports
    """
    hosts = [f"[{name}]" if ":" in name else name for name in [address] + config["addresses"]]
    return [f"{host}:{port + number}" for host in hosts for number in range(config["portals"])]


@contextlib.contextmanager
def _running(ctx):
    started = []
    try:
        for id_, lusd in ctx.lusd.items():
            before = _in_map(ctx, id_).get("up_from", 0)
            started.append((id_, before))
            ctx.daemons.add_daemon(
                lusd["remote"],
                TYPE,
                id_,
                args=lusd["args"],
                logger=log.getChild("lus." + id_),
                # Its input is how daemon-helper gets signals.
                stdin=run.PIPE,
                wait=False,
                check_status=False,
            )
        for id_, before in started:
            wait_until_up(ctx, id_, before)
        yield
    finally:
        _stop_all(ctx, [id_ for id_, _ in started])


def _stop_all(ctx, ids):
    failures = []
    for id_ in ids:
        if ctx.lusd[id_]["is_cut"]:
            # Else it could not end well, whatever failed before.
            heal_daemon(ctx, id_)
    for id_ in ids:
        if not _daemon(ctx, id_).running():
            # A task killed or stopped it, and did not start it again.
            log.info("lus.%s does not run", id_)
            continue
        try:
            stop_daemon(ctx, id_)
        except (RuntimeError, CommandFailedError, ConnectionLostError) as error:
            log.error("%s", error)
            failures.append(str(error))
    if failures:
        raise RuntimeError("; ".join(failures))


def _daemon(ctx, id_):
    return ctx.daemons.get_daemon(TYPE, id_)


def _in_map(ctx, id_):
    """
    What `lus daemon ls` has of a daemon; nothing for one that never registered
    """
    out = ctx.lusd[id_]["remote"].sh(["sudo", "lus", "--cluster", "ceph", "daemon", "ls", "-f", "json"])
    return next((entry for entry in json.loads(out) if entry["id"] == id_), {})


def _ended(daemon, seconds):
    end = time.monotonic() + seconds
    while not daemon.finished():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS / 4)
    return True


def _reap(daemon):
    """
    The exit status of a daemon that ended
    """
    status = daemon.proc.exitstatus
    daemon.wait()
    return status
