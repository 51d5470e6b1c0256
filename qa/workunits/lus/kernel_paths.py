#!/usr/bin/python3 -Bs
"""dm-multipath over two portals of one daemon, with the settings of doc/hosts: both paths have priority 50 and are one group. Each portal in turn is out of the host's
reach, without a word to either side, while fio and an ext4 write through both: nothing fails, the other path carries all, and the lost one comes back.

Environment: none. Takes root where it runs (the image of the virtual machine is made once)."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import guest  # noqa: E402
import linux_host  # noqa: E402
import qa  # noqa: E402

NAME, IMAGES, SIZE = "kernel-paths", ("rbd/qa-kernel-paths-raw", "rbd/qa-kernel-paths-ext4"), "48M"
RAW, FILES = 0, 1
PATHS_SECONDS = 300
PASSES, PASSES_SECONDS = 2, 300
RULE = "pref 100 ipproto 6 dport"


def silence(machine, portal):
    """What the host sends to the portal goes nowhere, from now on; its connections know nothing of it."""
    machine.do(f"ip rule add {RULE} {portal.rpartition(':')[2]} blackhole")


def heal(machine, portal):
    machine.do(f"ip rule del {RULE} {portal.rpartition(':')[2]} blackhole")


def await_loss(host, portal):
    """Until dm-multipath has given up this portal's paths, and those only."""

    def is_lost():
        return {path.portal for path in host.paths() if path.state != "active"} == {portal}

    qa.await_true(f"the loss of the paths by {portal}", is_lost, PATHS_SECONDS, 1)


def check_groups(machine):
    """One group for each LU, with both paths."""
    groups = re.findall(r"policy='service-time 0' prio=(\d+) status=(\w+)\n((?:.*\d+:\d+:\d+:\d+ .*\n?)*)", machine.do("multipath -ll"))
    shape = sorted((priority, paths.count(" active ready running")) for priority, _, paths in groups)
    qa.require(shape == [("50", 2), ("50", 2)], f"the groups (priority, ready paths) are {shape}, and must be two of 50 with two each")


def main():
    cluster = qa.Cluster.given()
    portals = cluster.portals
    qa.require(len(portals) == 2 and len(cluster.lus_json("daemon", "ls")) == 1, f"the portals are {portals}; this is for one daemon with two")
    with cluster.target(NAME) as target, guest.initiator(multipath=True) as machine:
        for image in IMAGES:
            target.create(image, SIZE)
        host = linux_host.LinuxHost(machine, qa.say)
        host.install()
        host.login(target.iqn, portals[0])

        def await_paths(when):
            seconds = host.wait_for_paths(lambda: {RAW: portals, FILES: portals}, portals, PATHS_SECONDS)
            qa.say(f"all paths are right {when}: {seconds:.0f} s")

        await_paths("after the login")
        check_groups(machine)
        host.begin(RAW, FILES)
        host.wait_for_passes(1, PASSES_SECONDS)
        for portal in portals:
            host.stalls()
            silence(machine, portal)
            await_loss(host, portal)
            host.wait_for_passes(PASSES, PASSES_SECONDS)
            heal(machine, portal)
            await_paths(f"after {portal} was out of reach")
            qa.say("longest stall of fio {} ms, of a file {} ms".format(*host.stalls()))
        qa.say(f"no error; passes of fio verified and files compared: {host.end()}")
        check_groups(machine)
        host.logout()


qa.run_check(main)
