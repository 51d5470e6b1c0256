#!/usr/bin/python3 -Bs
"""What a Debian host hears of a pool that fills up: how much room there is, a warning when little is left, once each time; and an error that says why when none is
left, after which the disk goes on when there is room again.

Environment: none. Takes root where it runs (the image of the virtual machine is made once)."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import guest  # noqa: E402
import qa  # noqa: E402

NAME, POOL, IMAGE = "kernel-thin", "rbd", "rbd/qa-kernel-thin"
SIZE_MIB = 256
# Room of the pool, by a quota: with this much of it in use 20 % are left, which is the threshold; and so much is no more than 10 %.
QUOTA_MIB, REACHED_MIB, FULLER_MIB = 120, 108, 116
# The monitors' figures are some seconds old.
SECONDS = 100
WARNING = "LUN reached a thin provisioning soft threshold"
NO_SPACE = "No space left on device"


def set_quota(cluster, mebibytes):
    """Room of the pool; 0 is all that its OSDs have."""
    qa.run(["ceph", "osd", "pool", "set-quota", POOL, "max_bytes", str(mebibytes << 20)], env=cluster.env)


def room(machine, device):
    """(available, in use, percent available) by log page 0Ch, the counts in MiB; None of a page that knows nothing."""
    page = machine.read(f"sg_logs -p 0xc {device}")
    found = [re.search(pattern, page) for pattern in (r"Available LBA mapping[^:]*: *(\d+)", r"Used LBA mapping[^:]*: *(\d+)", r"resource percentage[^:]*: *(\d+)")]
    return tuple(int(value.group(1)) for value in found) if all(found) else None


def warnings(machine, device):
    """How often the host's kernel was told so far. A command is what it hears by."""
    machine.status(f"sg_turs {device}")
    return machine.read(f"dmesg | grep -c '{WARNING}' || true").strip()


def await_warnings(machine, device, count):
    qa.await_true(f"warning {count} in the host's kernel log", lambda: warnings(machine, device) == str(count), SECONDS, 1)


def write(machine, device, first_mib, last_mib):
    """Whether this range of the disk could be written, and what was said."""
    status, said, _ = machine.status(f"dd if=/dev/urandom of={device} oflag=direct bs=1M seek={first_mib} count={last_mib - first_mib} status=none")
    return status == 0, said


def check_announced(machine, device):
    """One threshold, as sg3-utils read it, which begins to be known when the daemon has asked the monitors."""
    pages = machine.read(f"sg_vpd -p lbpv {device}; sg_modes -p 0x1c,2 -r {device} | od -An -tx1 -v")
    qa.require(re.search(r"Threshold exponent: 11\b", pages), f"VPD page B2h: {pages}")
    qa.require(re.search(r"88 03 00 00\s+00 00 00 14", pages), f"mode page 1Ch/02h has no descriptor of 20 percent: {pages}")
    qa.await_true("the quota in log page 0Ch", lambda: (seen := room(machine, device)) and seen[0] + seen[1] in (QUOTA_MIB - 1, QUOTA_MIB), SECONDS, 1)
    available, used, percent = room(machine, device)
    qa.require(abs(percent - 100 * available // QUOTA_MIB) <= 1, f"{available} of {QUOTA_MIB} MiB are {percent} %")
    qa.require(warnings(machine, device) == "0", "the host was warned of a pool with room")
    qa.say(f"VPD B2, mode page 1C/02, log page 0C: {available} MiB free, {used} in use, {percent} %")


def check_warning(machine, device):
    """Told when the threshold is reached, not again below it; armed by room, and told again."""
    qa.require(write(machine, device, 0, REACHED_MIB)[0], "the disk could not be written")
    await_warnings(machine, device, 1)
    before = room(machine, device)
    qa.require(write(machine, device, REACHED_MIB, FULLER_MIB)[0], "the disk could not be written")
    qa.await_true("the figures after that", lambda: room(machine, device)[0] < before[0], SECONDS, 1)
    qa.require(warnings(machine, device) == "1", "the host was warned again below the threshold")
    machine.do(f"blkdiscard {device}")
    qa.await_true("the room that was given back", lambda: room(machine, device)[2] > 50, SECONDS, 1)
    qa.require(write(machine, device, 0, REACHED_MIB)[0], "the disk could not be written")
    await_warnings(machine, device, 2)
    qa.say(f"the kernel was warned at {before[2]} %, not again below, and once more after room was given back")


def check_full(cluster, machine, device):
    """Writes end with SPACE ALLOCATION FAILED WRITE PROTECT, which Linux calls ENOSPC; reads go on, and so do writes when there is room."""
    said = ""
    for first in range(REACHED_MIB, SIZE_MIB, 4):
        written, said = write(machine, device, first, first + 4)
        if not written:
            break
    qa.require(NO_SPACE in said, f"the pool is full, and the host hears: {said}")
    machine.do(f"dd if={device} of=/dev/null iflag=direct bs=1M count={REACHED_MIB} status=none")
    set_quota(cluster, 0)
    qa.await_true("a write that has room", lambda: write(machine, device, 0, 4)[0], SECONDS, 1)
    qa.require(machine.read("iscsiadm -m session | wc -l").strip() == "1", "the session is gone")
    qa.say("a full pool is ENOSPC at the host, its session stays, and writes go on when there is room")


def main():
    cluster = qa.Cluster.given()
    with cluster.target(NAME) as target, guest.initiator() as machine:
        target.create(IMAGE, f"{SIZE_MIB}M")
        node = guest.Node(machine, target.iqn, cluster.portals[0])
        node.discover()
        node.login()
        device = node.disk()
        set_quota(cluster, QUOTA_MIB)
        try:
            check_announced(machine, device)
            check_warning(machine, device)
            check_full(cluster, machine, device)
        finally:
            set_quota(cluster, 0)
        node.logout()


qa.run_check(main)
