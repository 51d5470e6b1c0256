"""tools/vstart: its commands and their options."""

import argparse
import pathlib
import shlex
import sys

import ui
from cluster import Cluster
from ui import Failure

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(prog="tools/vstart")
    sub = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "env", "destroy"):
        p = sub.add_parser(name)
        p.add_argument("--dir", default=ROOT / "target" / "vstart")
        if name == "up":
            p.add_argument("--osds", type=int)
            p.add_argument("--lusds", type=int)
            p.add_argument("--port-base", type=int)
    options = parser.parse_args()
    cluster = Cluster(options.dir)
    try:
        if options.command == "up":
            with cluster.locked():
                cluster.prepare(options.osds, options.lusds, options.port_base, None, None, [])
                cluster.start_ceph()
                ui.progress("cluster", "is up")
        elif options.command == "env":
            cluster.require()
            print(f"export CEPH_CONF={shlex.quote(str(cluster.conf))}")
            print(f"export CEPH_ARGS={shlex.quote(f'--name client.admin --keyring {cluster.keyring}')}")
            print(f"export LUS_DIR={shlex.quote(str(cluster.dir))}")
        else:
            cluster.require()
            with cluster.locked():
                cluster.stop() if options.command == "down" else cluster.destroy()
    except Failure as failure:
        ui.report(failure, parser.prog)
        sys.exit(1)


main()
