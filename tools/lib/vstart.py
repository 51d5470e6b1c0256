"""tools/vstart: its commands and their options."""

import argparse
import ipaddress
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import build
import cluster as clusters
import network
import packages
import procs
import ui
from cluster import Cluster
from ui import Failure

PROGRAM = "tools/vstart"

ABOUT = """\
A real Ceph cluster with LUS daemons on this machine: a monitor, a manager and BlueStore OSDs on sparse files, cephx
on, everything on 127.0.0.1 (or with --hosts on networks of its own) and below one folder. Several can run side by side, and a host's own Ceph is never touched:
nothing of /etc/ceph, /var/lib/ceph or /run/ceph is read or written.

Start here:

    tools/vstart demo               from nothing to a served disk, and how to attach it
    tools/vstart up                 a cluster with one OSD and one daemon
    eval "$(tools/vstart env)"      then `ceph -s`, `rbd ls`, `lus status` speak to it in this shell
    tools/vstart down               stops it; `up` brings it back with its data
    tools/vstart destroy            stops it and deletes it
"""

UP = """\
Starts what is missing and leaves alone what runs; a second `up` is harmless. What is not given stays as it was at the
last `up`. Counts only grow.

    tools/vstart up --osds 3 --lusds 2                      three OSDs, lus.a and lus.b
    tools/vstart up --lusds 0                               Ceph alone; nothing is built
    tools/vstart up --dir /tmp/second --port-base 14000     one more cluster, on other ports
    tools/vstart up --lusds 2 --hosts                       lus.a and lus.b on hosts of their own, which can be cut off (root)
"""

CUT = """\
Cuts a daemon off from one or both of its networks, of a cluster that was started with `up --hosts`: nothing comes or goes, nothing is refused, no interface
loses its carrier. What is cut stays so, also over a restart of the daemon, until `heal`, or `down` of the whole cluster.

    tools/vstart cut lus.a ceph         lus.a reaches neither Ceph nor other daemons; iSCSI hosts reach it
    tools/vstart cut lus.a public       iSCSI hosts do not reach it
    tools/vstart cut lus.a both
    tools/vstart heal lus.a

Each daemon's host is the network namespace lusN-ID (`tools/vstart status` says N), with the interfaces `ceph` (198.18.N.10 for lus.a, .11 for lus.b ...)
and `public` (198.19.N.10 ...). This machine is 198.18.N.1, where Ceph listens, and 198.19.N.1. To look around: ip netns exec lusN-a ss -tn
"""

STATUS_EXIT = "Exits with 0 if everything runs, 3 if something does not, 2 if there is no cluster."


def main():
    """Reads the command line and runs one command."""
    options = _parser().parse_args()
    # librados itself would take options from CEPH_ARGS.
    for name in set(os.environ) - set(procs.clean_environment()):
        del os.environ[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cluster = Cluster(options.dir)
    try:
        sys.exit(options.run(options, cluster))
    except Failure as failure:
        ui.report(failure, PROGRAM)
        sys.exit(1)
    except OSError as error:
        ui.report(Failure(str(error)), PROGRAM)
        sys.exit(1)
    except KeyboardInterrupt:
        ui.report(Failure("interrupted; what was started runs on", "tools/vstart up continues, down stops"), PROGRAM)
        sys.exit(130)
    finally:
        # librados' threads must not run on while Python ends: now and then that is a segmentation fault.
        cluster.disconnect()


def _parser():
    raw = argparse.RawDescriptionHelpFormatter
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--dir", default=clusters.DEFAULT_DIR, help="the cluster's folder (default: target/vstart in the checkout)"
    )
    shape = argparse.ArgumentParser(add_help=False)
    shape.add_argument("--osds", type=_number(1, clusters.MAX_OSDS), metavar="N", help="OSDs (default 1)")
    shape.add_argument("--lusds", type=_number(0, clusters.MAX_LUSDS), metavar="N", help="LUS daemons (default 1)")
    shape.add_argument(
        "--port-base",
        type=_number(1024, clusters.PORT_LAST_BASE),
        metavar="P",
        help=f"take the first free block of {clusters.PORT_STEP} ports from P on (default {clusters.PORT_BASE})",
    )
    shape.add_argument("--osd-size", type=_bytes, metavar="SIZE", help="of each new OSD's sparse file (default 16G)")
    shape.add_argument(
        "--pool",
        action="append",
        default=[],
        type=_pool,
        metavar="NAME",
        help="a further pool for images, which the daemons may use (repeatable)",
    )
    shape.add_argument(
        "--listen", type=_address, metavar="ADDR", help="where the daemons' portals listen (default 127.0.0.1)"
    )
    shape.add_argument(
        "--hosts",
        action="store_true",
        help="each LUS daemon in a network namespace of its own, which `cut` and `heal` are for (takes root; stays so at the next `up`)",
    )
    shape.add_argument("--profile", choices=build.PROFILES, help="of the build (default release)")
    shape.add_argument("--no-build", action="store_true", help="take the binaries as they are")

    parser = argparse.ArgumentParser(prog=PROGRAM, description=ABOUT, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, run, about, parents=(common,), more=None):
        command = commands.add_parser(
            name, help=about, description=more or about, formatter_class=raw, parents=list(parents)
        )
        command.set_defaults(run=run)
        return command

    up = add("up", _up, "start what is missing", (common, shape), UP)
    up.add_argument("--install", action="store_true", help="install missing packages")
    down = add("down", _down, "stop it, or only the named daemons (`up` starts them again)")
    down.add_argument("names", nargs="*", metavar="NAME", help="such as lus.a or osd.0")
    status = add("status", _status, "what runs", more=f"What runs. {STATUS_EXIT}")
    status.add_argument("-f", "--format", choices=("plain", "json", "json-pretty"), default="plain")
    add("env", _env, 'print shell exports, for: eval "$(tools/vstart env)"')
    logs = add("logs", _logs, "show the daemons' logs")
    logs.add_argument("names", nargs="*", metavar="NAME", help="such as lus.a or mon.a (default: all)")
    logs.add_argument("-n", "--lines", type=_number(1, 1 << 20), default=20, metavar="N", help="of each (default 20)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    cut = add("cut", _cut, "cut a daemon's network, of a cluster with --hosts", more=CUT)
    cut.add_argument("name", metavar="ID", help="such as lus.a or a")
    cut.add_argument("network", choices=network.CUTS)
    heal = add("heal", _heal, "the end of a cut", more=CUT)
    heal.add_argument("name", metavar="ID", help="such as lus.a or a")
    add("demo", _demo, "from nothing to a served disk, and how to attach it", (common, shape))
    add("destroy", _destroy, "stop it and delete its folder")
    return parser


# Commands: each returns its exit status


def _up(options, cluster):
    packages.ensure(options.install, packages.CLUSTER, *_for_hosts(options))
    with cluster.locked():
        _start(options, cluster, options.install)
    ui.progress("cluster", ui.colour("is up", "green"))
    return 0


def _start(options, cluster, install):
    cluster.prepare(
        osds=options.osds,
        lusds=options.lusds,
        port_base=options.port_base,
        osd_size=options.osd_size,
        listen=options.listen,
        pools=options.pool,
        profile=options.profile,
        hosts=options.hosts,
    )
    profile = cluster.state["profile"]
    missing = [name for name in cluster.lusd_names() if not cluster.process(name).pid()]
    if missing and not options.no_build:
        build.require_cargo()
        packages.ensure(install, packages.CLUSTER, packages.BUILD)
        build.build(profile)
    elif missing and not build.built(profile):
        raise Failure(f"{build.bin_dir(profile)} has no lusd", "leave out --no-build, or give --lusds 0")
    cluster.start_ceph()
    cluster.start_lusds(build.bin_dir(profile) / "lusd")


def _for_hosts(options):
    """Groups of packages for --hosts. Who is not root is told so before anything is installed."""
    if not options.hosts:
        return ()
    network.require_root()
    return (packages.NETWORK,)


def _cut(options, cluster):
    _network(cluster).cut(_id(options.name), options.network)
    return 0


def _heal(options, cluster):
    _network(cluster).heal(_id(options.name))
    return 0


def _network(cluster):
    cluster.require()
    network.require()
    made = cluster.network()
    if made is None:
        raise Failure("the daemons of this cluster have no hosts of their own", "start one that has: tools/vstart up --hosts")
    return made


def _id(name):
    return name.removeprefix("lus.")


def _down(options, cluster):
    cluster.require()
    unknown = set(options.names) - set(cluster.names())
    if unknown:
        raise Failure(f"no such daemon: {' '.join(sorted(unknown))}", f"there are {' '.join(cluster.names())}")
    with cluster.locked():
        cluster.stop(options.names or None)
    return 0


def _destroy(_options, cluster):
    if cluster.state is None and cluster.dir.is_dir() and os.listdir(cluster.dir) not in ([], [".lock"]):
        raise Failure(f"{cluster.dir} is not a cluster of vstart's; it stays", "look at what it is")
    if cluster.state is None and not cluster.dir.is_dir():
        network.Network(cluster.dir).remove()
        ui.progress("cluster", f"there is none in {cluster.dir}")
        return 0
    with cluster.locked():
        cluster.destroy()
    ui.progress("cluster", f"{cluster.dir} is gone")
    return 0


def _status(options, cluster):
    if cluster.state is None:
        if options.format == "plain":
            cluster.require()
        print("{}")
        return 2
    made = cluster.network()
    cuts = made.cuts() if made else {}
    daemons = [_daemon_status(cluster, name, cuts) for name in cluster.names()]
    whole = {
        "dir": str(cluster.dir),
        "fsid": cluster.state["fsid"],
        "health": cluster.health(),
        "port_base": cluster.state["port_base"],
        "hosts": cluster.state.get("hosts"),
        "daemons": daemons,
    }
    if options.format == "plain":
        print(f"cluster {whole['fsid']} in {cluster.dir}: {whole['health'] or 'the monitor does not run'}\n")
        if whole["hosts"]:
            print(f"hosts of their own: network namespaces lus{whole['hosts']}-a and on\n")
        rows = []
        for daemon in daemons:
            started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(daemon["started"])) if daemon["pid"] else "-"
            state = ", ".join([daemon["state"], *(f"{network} cut" for network in daemon["cut"])])
            rows.append([daemon["name"], state, daemon["pid"] or "-", started, daemon["address"] or "-"])
        print(ui.table(["NAME", "STATE", "PID", "STARTED", "ADDRESS"], rows))
    else:
        print(json.dumps(whole, indent=4 if options.format == "json-pretty" else None))
    return 0 if all(daemon["pid"] for daemon in daemons) else 3


def _daemon_status(cluster, name, cuts):
    process = cluster.process(name)
    pid = process.pid()
    address = None
    if name.startswith("lus."):
        address = cluster.portal(name)
    elif name.startswith("mon."):
        address = f"{cluster.address()}:{cluster.mon_port()}"
    return {
        "name": name,
        "state": "running" if pid else "stopped",
        "cut": cuts.get(_id(name), []) if name.startswith("lus.") else [],
        "pid": pid,
        "started": process.started_at() if pid else None,
        "address": address,
        "log": str(cluster.log(name)),
        "output": str(process.output),
        "command": cluster.argv(name),
    }


def _env(_options, cluster):
    cluster.require()
    stopped = cluster.stopped()
    if stopped:
        print(f"{PROGRAM}: not running: {' '.join(stopped)}; start with: {PROGRAM} up", file=sys.stderr)
    for name, value in cluster.exports().items():
        print(f"export {name}={shlex.quote(str(value))}")
    return 0


def _logs(options, cluster):
    cluster.require()
    unknown = set(options.names) - set(cluster.names())
    if unknown:
        raise Failure(f"no such daemon: {' '.join(sorted(unknown))}", f"there are {' '.join(cluster.names())}")
    files = []
    for name in options.names or cluster.names():
        files += [path for path in (cluster.log(name), cluster.process(name).output) if path.exists()]
    if not options.names and (cluster.dir / "log" / "cluster.log").exists():
        files.append(cluster.dir / "log" / "cluster.log")
    if options.follow:
        os.execvp("tail", ["tail", "-n", str(options.lines), "-F", *map(str, files)])
    for path in files:
        lines = ui.tail(path, options.lines)
        if lines:
            print(ui.colour(f"==> {path} <==", "bold", sys.stdout), *lines, "", sep="\n")
    return 0


def _demo(options, cluster):
    import demo

    if options.no_build is False:
        build.require_cargo()
    packages.ensure(True, packages.CLUSTER, packages.BUILD, packages.CLIENTS, *_for_hosts(options))
    if options.lusds == 0:
        raise Failure("a demo needs a daemon", "leave out --lusds 0")
    if options.lusds is None and not (cluster.state or {}).get("lusds"):
        options.lusds = 1
    with cluster.locked():
        _start(options, cluster, install=True)
        demo.run(cluster, cluster.state["profile"])
    return 0


# Types of options


def _number(least, most):
    def parse(text):
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be {least} to {most}")
        return int(text)

    return parse


def _bytes(text):
    found = re.fullmatch(r"(\d+)([GT])", text, re.IGNORECASE)
    if not found or not 4 << 30 <= int(found[1]) << {"G": 30, "T": 40}[found[2].upper()] <= 64 << 40:
        raise argparse.ArgumentTypeError("must be like 16G or 1T, 4G at least")
    return int(found[1]) << {"G": 30, "T": 40}[found[2].upper()]


def _pool(text):
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError("must be of letters, digits, _, - and dots, and not begin with a dot")
    return text


def _address(text):
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise argparse.ArgumentTypeError("must be an IP address") from None
    if address.is_unspecified:
        raise argparse.ArgumentTypeError("must be one address of this machine: hosts are told to connect to it")
    return f"[{address}]" if address.version == 6 else str(address)


if __name__ == "__main__":
    main()
