"""Stand-in for ceph.git's task `ceph`: a cluster of tools/vstart, with that task's keys, subtasks, and checks at its end.

What the real task can do and a cluster on this machine cannot is refused by name, never ignored.
"""

import contextlib
import functools
import json
import logging
import subprocess
import time

import gevent.subprocess
from cluster import MAX_OSDS, Cluster
from network import IDS, address
from teuth import ROOT, TEUTH
from teuth.daemons import VstartDaemon
from teuthology import misc
from teuthology.exceptions import CommandFailedError, ConfigError
from teuthology.orchestra.daemon import DaemonGroup

log = logging.getLogger(__name__)

# Keys of the real task that are honoured; `fs` says something of OSDs that are not BlueStore, the last ones which packages to take.
KEYS = {"conf", "log-ignorelist", "wait-for-healthy", "wait-for-scrub", "cluster", "create_rbd_pool", "fs", "branch", "tag", "sha1", "flavor"}
# Keys that it has, too.
REFUSED = {
    "add_osds_to_crush", "block_journal", "cephfs", "config-mode", "coverage", "cpu_profile", "crush_tunables", "mgr-modules", "mkfs_options",
    "mon_bind_addrvec", "mon_bind_msgr2", "mount_options", "path", "pre-mgr-commands", "skip_mgr_daemons", "skip_stop_pg_num_changes",
    "tmpfs_journal", "valgrind",
}  # fmt: skip
RESTART_KEYS = {"daemons", "wait-for-healthy", "wait-for-osds-up"}
STOP_KEYS = {"daemons"}
HEALTHY_KEYS = {"cluster", "wait-for-healthy"}
ROLE_TYPES = ["mon", "mgr", "osd"]
BADNESS = r"\[ERR\]|\[WRN\]|\[SEC\]"
# As the real one: the most severe first.
SEVERITIES = (r"\[SEC\]", r"\[ERR\]", r"\[WRN\]")

HEALTHY_SECONDS = 300
SCRUB_SECONDS = 300
POLL_SECONDS = 0.3


@contextlib.contextmanager
def task(ctx, config):
    """Starts a cluster for the roles mon.a, mgr.x and osd.N, and destroys it at the end."""
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError("task ceph only supports a dictionary for configuration")
    config = misc.deep_merge(dict(config), ctx.config.get("overrides", {}).get("ceph", {}))
    _check_keys(config)
    cluster = _start(ctx, _count_osds(ctx), config.get("conf", {}))
    try:
        if config.get("wait-for-healthy", True):
            healthy(ctx, None)
        yield
        _require_running(ctx)
        if config.get("wait-for-scrub", True) and ctx.summary["success"]:
            _scrub(ctx)
    finally:
        # What a stop brings into the log says nothing about the run.
        _quietly(ctx, "config", "set", "mon", "mon_health_to_clog", "false")
        _check_crashes(ctx, cluster)
        _check_log(ctx, cluster, config.get("log-ignorelist", []))
        _stop(ctx, cluster)


@contextlib.contextmanager
def restart(ctx, config):
    """Kills daemons and starts them again: a list, or {daemons, wait-for-healthy, wait-for-osds-up}; None is all of them."""
    config = _as_dict(config, "ceph.restart", RESTART_KEYS)
    for daemon in _daemons(ctx, config):
        daemon.stop()
        if daemon.type_ == "osd":
            _ceph(ctx, "osd", "down", daemon.id_)
        daemon.restart()
    if config.get("wait-for-healthy", True):
        healthy(ctx, None)
    if config.get("wait-for-osds-up", False):
        _wait_osds_up(ctx)
    yield


@contextlib.contextmanager
def stop(ctx, config):
    """Kills daemons: a list, or {daemons}; None is all of them."""
    for daemon in _daemons(ctx, _as_dict(config, "ceph.stop", STOP_KEYS)):
        daemon.stop()
    yield


def healthy(ctx, config):
    """Waits until OSDs are up, placement groups clean by fresh figures, and, unless `wait-for-healthy` is false, the health is OK."""
    config = _as_dict(config, "ceph.healthy", HEALTHY_KEYS)
    _wait_osds_up(ctx)
    _flush_pg_stats(ctx)
    _await("all placement groups are active+clean", lambda: _clean(ctx), HEALTHY_SECONDS)
    if config.get("wait-for-healthy", True):
        _await("the cluster is healthy", lambda: _ceph(ctx, "health")["status"] == "HEALTH_OK", HEALTHY_SECONDS)


def wait_for_mon_quorum(ctx, config):
    """Waits until the named monitors, and only they, have a quorum."""
    wanted = config["daemons"] if isinstance(config, dict) else config
    _await(f"the quorum is {wanted}", lambda: sorted(_ceph(ctx, "quorum_status")["quorum_names"]) == sorted(wanted), HEALTHY_SECONDS)


# Configuration


def _check_keys(config):
    for key in config:
        if key in REFUSED:
            raise ConfigError(f"a cluster on this machine cannot do what key {key} of task ceph asks for")
        if key not in KEYS:
            raise ConfigError(f"task ceph does not know {key}")
    if config.get("cluster", "ceph") != "ceph":
        raise ConfigError("a job on this machine has one cluster: ceph")
    if config.get("create_rbd_pool", True) is not True:
        raise ConfigError("a cluster on this machine always has the pool rbd")


def _count_osds(ctx):
    """How many OSDs the roles ask for; raises ConfigError for a cluster that vstart cannot make."""
    roles = [misc.split_role(role) for role in misc.all_roles(ctx.cluster)]
    for cluster, type_, id_ in roles:
        if cluster != "ceph" or type_ in ("mds", "rgw", "rbd-mirror", "ceph-iscsi", "nvmeof"):
            raise ConfigError(f"a job on this machine cannot have the role {cluster}.{type_}.{id_}")
    ids = {kind: sorted(id_ for _, type_, id_ in roles if type_ == kind) for kind in ROLE_TYPES}
    if (ids["mon"], ids["mgr"]) != (["a"], ["x"]):
        raise ConfigError(f"a cluster on this machine has mon.a and mgr.x, not {ids['mon']} and {ids['mgr']}")
    count = len(ids["osd"])
    if not 1 <= count <= MAX_OSDS or set(ids["osd"]) != {str(number) for number in range(count)}:
        raise ConfigError(f"a cluster on this machine has osd.0 and on, at most {MAX_OSDS} of them, not {ids['osd']}")
    return count


def _as_dict(config, name, keys):
    if config is None:
        config = {}
    elif isinstance(config, list):
        config = {"daemons": config}
    unknown = sorted(set(config) - keys)
    if unknown:
        raise ConfigError(f"task {name} does not know {', '.join(unknown)}, or it cannot be had on this machine")
    return config


def _daemons(ctx, config):
    """The daemons that a list of roles names; `osd.*` is all OSDs."""
    roles = ctx.daemons.resolve_role_list(config.get("daemons"), ROLE_TYPES, True)
    found = []
    for role in roles:
        cluster, type_, id_ = misc.split_role(role)
        daemon = ctx.daemons.get_daemon(type_, id_, cluster)
        if daemon is None:
            raise ConfigError(f"there is no daemon {role}")
        found.append(daemon)
    return found


# Start and end


def _start(ctx, osds, conf):
    local = ctx.local
    hosts = _daemons_with_hosts(ctx)
    wanted = {"dir": local["cluster"], "osds": osds, "port_base": local["port_base"], "conf": conf, "hosts": hosts}
    log.info("Starting a cluster with %d OSDs in %s", osds, local["cluster"])
    done = gevent.subprocess.run(
        [TEUTH / "ceph_up.py", json.dumps(wanted)], env=local["env"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in done.stdout.splitlines():
        log.info("%s", line)
    if done.returncode != 0:
        raise RuntimeError(f"the cluster does not start: {done.stdout.strip().splitlines()[-1:]}")
    cluster = Cluster(local["cluster"])
    if not hasattr(ctx, "daemons"):
        ctx.daemons = DaemonGroup()
    for name in cluster.names():
        type_, _, id_ = name.partition(".")
        (remote,) = ctx.cluster.only(name).remotes
        ctx.daemons.daemons.setdefault(f"ceph.{type_}", {})[id_] = VstartDaemon(cluster, remote, type_, id_)
    # Where daemons of LUS go that would otherwise write to /var and take iSCSI's own port.
    first_portal = int(cluster.portal("lus.a").rpartition(":")[2])
    ours = {"port_base": first_portal, "data_dir": f"{local['work']}/lus", "log_dir": local["logs"], "pid_dir": f"{local['work']}/run"}
    ours["hosts"] = {id_: _host(cluster, id_) for id_ in hosts}
    misc.deep_merge(ctx.config, {"overrides": {"lusd": ours}})
    return cluster


def _daemons_with_hosts(ctx):
    """The ids of LUS daemons, if the task lusd is to cut them off: Ceph must then be where they reach it."""
    if not ctx.config.get("overrides", {}).get("lusd", {}).get("cuts"):
        return []
    ids = sorted(id_ for _, type_, id_ in map(misc.split_role, misc.all_roles(ctx.cluster)) if type_ == "lus")
    if not set(ids) <= set(IDS):
        raise ConfigError(f"only daemons lus.a to lus.z can be cut off on this machine, not {ids}")
    return ids


def _host(cluster, id_):
    """What the task lusd is told of a daemon's host."""
    made = cluster.network()
    tool = str(ROOT / "tools" / "vstart")
    return {
        "address": address("public", made.number, id_),
        "enter": made.enter(id_),
        "cut": [tool, "cut", "--dir", str(cluster.dir), id_],
        "heal": [tool, "heal", "--dir", str(cluster.dir), id_],
    }


def _stop(ctx, cluster):
    if ctx.local["keep"] and not ctx.summary["success"]:
        log.info("the cluster stays: tools/vstart status --dir %s", cluster.dir)
        return
    for daemon in _daemons(ctx, {}):
        if daemon.running():
            daemon.stop()
    if cluster.network():
        cluster.network().remove()


def _require_running(ctx):
    dead = [daemon.name for daemon in _daemons(ctx, {}) if daemon.finished()]
    if dead:
        raise RuntimeError(f"ended by themselves: {', '.join(dead)}")


def _check_crashes(ctx, cluster):
    crashes = sorted(path.name for path in (cluster.dir / "crash").iterdir() if path.name != "posted")
    if crashes:
        _fail(ctx, f"a daemon of Ceph crashed: {', '.join(crashes)}")


def _check_log(ctx, cluster, ignored):
    """Fails the job for the most severe line of the cluster log that is not to be ignored."""
    # On a lab what clients command is in a log of its own.
    lines = _grep(["-v", " : audit ", str(cluster.dir / "log" / "cluster.log")], None)
    lines = _grep(["-E", BADNESS], lines)
    for pattern in ignored:
        lines = _grep(["-E", "-v", "-e", pattern], lines)
    if not lines:
        return
    log.warning("Found errors (ERR|WRN|SEC) in cluster log:\n%s", lines)
    worst = next(found for severity in SEVERITIES if (found := _grep(["-E", severity], lines)))
    _fail(ctx, f'"{worst.splitlines()[0]}" in cluster log')


def _grep(arguments, text):
    """What grep finds: it reads the patterns as the real task does. Raises ConfigError for one that is no pattern."""
    done = subprocess.run(["grep", *arguments], input=text, capture_output=True, text=True, errors="replace")
    if done.returncode > 1:
        raise ConfigError(f"log-ignorelist: {done.stderr.strip()}")
    return done.stdout


def _fail(ctx, reason):
    log.error("%s", reason)
    ctx.summary["success"] = False
    ctx.summary["status"] = "fail"
    ctx.summary.setdefault("failure_reason", reason)


# Ceph's own words


def _ceph(ctx, *words):
    """`ceph WORDS -f json`, decoded where it says anything."""
    out = _ceph_text(ctx, *words, "-f", "json")
    return json.loads(out) if out.strip() else None


def _ceph_text(ctx, *words):
    (remote,) = ctx.cluster.only("mon.a").remotes
    return remote.sh(["ceph", "--cluster", "ceph", "--connect-timeout", "60", *words], quiet=True)


def _quietly(ctx, *words):
    if any(daemon.pid is None for daemon in _daemons(ctx, {"daemons": ["mon.a"]})):
        return
    try:
        _ceph(ctx, *words)
    except CommandFailedError as error:
        log.info("%s", error)


def _await(what, condition, seconds, pause=POLL_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(pause)
    log.info("%s", what)


def _wait_osds_up(ctx):
    """Each OSD that was not stopped is up as the very process that runs."""
    waiting = {int(daemon.id_): daemon for daemon in ctx.daemons.iter_daemons_of_role("osd") if daemon.running()}

    def all_up():
        shown = {osd["osd"]: osd for osd in _ceph(ctx, "osd", "dump")["osds"]}
        for number, daemon in waiting.items():
            daemon.check_status()
            nonces = {address["nonce"] for address in shown[number]["public_addrs"]["addrvec"]}
            if not shown[number]["up"] or daemon.pid not in nonces:
                return False
        return True

    _await("all OSDs are up", all_up, HEALTHY_SECONDS)


def _flush_pg_stats(ctx):
    """Waits until the manager has what each running OSD knows now: older figures may still say clean."""
    for daemon in ctx.daemons.iter_daemons_of_role("osd"):
        if daemon.running():
            sequence = int(_ceph_text(ctx, "tell", daemon.name, "flush_pg_stats"))
            _await(f"figures of {daemon.name} arrived", functools.partial(_has_figures, ctx, daemon.name, sequence), HEALTHY_SECONDS)


def _has_figures(ctx, osd, sequence):
    return int(_ceph_text(ctx, "osd", "last-stat-seq", osd)) >= sequence


def _clean(ctx):
    pgs = _ceph(ctx, "status")["pgmap"]
    clean = sum(state["count"] for state in pgs.get("pgs_by_state", []) if state["state_name"].startswith("active+clean"))
    return clean == pgs["num_pgs"] > 0


def _scrub(ctx):
    """Deep-scrubs every placement group; what it finds is in the cluster log, which is looked at later."""
    _await("all placement groups are active+clean", lambda: _clean(ctx), HEALTHY_SECONDS)
    before = _scrub_stamps(ctx)
    time.sleep(1)
    for daemon in _daemons(ctx, {"daemons": ["osd.*"]}):
        _ceph(ctx, "osd", "deep-scrub", daemon.id_)
    _await("every placement group is scrubbed", lambda: all(stamp != before.get(pg) for pg, stamp in _scrub_stamps(ctx).items()), SCRUB_SECONDS, 2)


def _scrub_stamps(ctx):
    return {stat["pgid"]: stat["last_deep_scrub_stamp"] for stat in _ceph(ctx, "pg", "dump", "pgs")["pg_stats"]}
