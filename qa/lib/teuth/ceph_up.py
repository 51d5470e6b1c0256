#!/usr/bin/python3 -Bs
"""Starts the Ceph of a job; a process of its own, since python3-rados belongs to Debian's Python and not to the environment of teuthology.

Its argument is JSON: dir, osds, port_base, conf {section: {option: value}}, hosts [ids of LUS daemons that get hosts of their own].
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tools" / "lib"))
import ui  # noqa: E402
from cluster import Cluster  # noqa: E402

# Bytes of each OSD. BlueStore writes to all of its file in the course of an hour: three of these must fit beside everything else.
OSD_SIZE = 8 << 30


def main():
    """Reads what is wanted, starts it, exits with 1 and a sentence if that failed."""
    wanted = json.loads(sys.argv[1])
    cluster = Cluster(wanted["dir"])
    try:
        with cluster.locked():
            cluster.prepare(
                osds=wanted["osds"],
                lusds=0,
                port_base=wanted["port_base"],
                osd_size=OSD_SIZE,
                listen=None,
                pools=[],
                profile=None,
                conf=wanted["conf"],
                hosts=bool(wanted["hosts"]),
            )
            if wanted["hosts"]:
                cluster.network().add(wanted["hosts"])
            cluster.start_ceph()
    except ui.Failure as failure:
        ui.report(failure, "ceph")
        sys.exit(1)
    finally:
        cluster.disconnect()


main()
