#!/usr/bin/python3 -Bs
"""The shortest way through everything: a target and an LU by `lus`, I/O by QEMU's initiator, and nothing left.

Environment: BLOCK_SIZE (512 or 4096), DIGEST (none or header). Any number of daemons: one serves the LU, every other one lists it and
answers media commands 02/04/0B."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import qemu  # noqa: E402
import relay  # noqa: E402

NAME = "smoke"
LU = "rbd/qa-smoke"
SIZE_MIB = 64
STANDBY = "02/04/0b"
SETTLE_S = 30  # from a change of the map to its effect at every daemon
# Bytes of each write and read. From 32 KiB on QEMU 7.2 asks a disk for its mapping first, in a length that it then finds unaligned if blocks have 4096 bytes.
LENGTH = 16384
# Where, in bytes: both ends, in the middle of an object, over the end of one.
OFFSETS = (0, 4096 * 900, 4 * qa.MIB - LENGTH // 2, SIZE_MIB * qa.MIB - LENGTH)


def outcomes(url, *commands):
    """{command: (outcome, data)}."""
    lines = [line.split() for line in qa.run([qa.client("probe"), "--retry", 30, url, *commands]).stdout.splitlines()]
    return {words[0]: (words[1], bytes.fromhex(words[2]) if len(words) > 2 else b"") for words in lines}


def served_at(target, lun, portals):
    """The portals at which the LU answers that it is ready."""
    return [portal for portal in portals if outcomes(target.url(lun, portal=portal), "tur")["tur"][0] == "good"]


def check_owner(target, lun, portals):
    """Exactly one daemon serves the LU; returns its portal."""
    found = qa.await_true("the LU is served", lambda: served_at(target, lun, portals), SETTLE_S, pause=0.2)
    qa.require(len(found) == 1, f"the LU is served at {found}")
    for portal in set(portals) - set(found):
        for command, (outcome, _) in outcomes(target.url(lun, portal=portal), "tur", "read:0", "write:0").items():
            qa.require(outcome == STANDBY, f"{command} at {portal}, which does not own the LU: {outcome}, not {STANDBY}")
        listed = outcomes(target.url(lun, portal=portal), "luns")["luns"][1]
        numbers = {int.from_bytes(listed[at : at + 2]) & 0x3FFF for at in range(8, len(listed), 8)}
        qa.require(lun in numbers, f"{portal} does not list LUN {lun}: {sorted(numbers)}")
    qa.say(f"{found[0]} of {len(portals)} portals serves the LU")
    return found[0]


def check_geometry(url, block_size):
    capacity = outcomes(url, "capacity")["capacity"][1]
    blocks, size = int.from_bytes(capacity[0:8]) + 1, int.from_bytes(capacity[8:12])
    qa.require((size, blocks * size) == (block_size, SIZE_MIB * qa.MIB), f"READ CAPACITY: {blocks} blocks of {size} bytes, not of {block_size}")
    qa.say(f"{blocks} blocks of {size} bytes")


def check_data(target, lun, portal, digest):
    """Writes, reads it back in a second session, and finds zeros beside it."""
    patterns = list(enumerate(OFFSETS, 0xA0))
    with relay.Relay(portal) as ear:
        qemu.io(target.url(lun, portal=ear.portal), [*(f"write -P {number} {offset} {LENGTH}" for number, offset in patterns), "flush"], digest)
        agreed = ear.agreed("HeaderDigest")
    qa.require(agreed == ("CRC32C" if digest else "None"), f"header digest {agreed} was agreed on")
    url = target.url(lun, portal=portal)
    qemu.io(url, [*(f"read -P {number} {offset} {LENGTH}" for number, offset in patterns), f"read -P 0 {LENGTH} {LENGTH}"], digest)
    qa.say(f"{len(OFFSETS)} writes read back, header digest {agreed}")


def check_removed(cluster, target, portal):
    """Nothing is left of it: no target, no LU, no image, and no login."""
    for noun in ("target", "lu"):
        left = [entry for entry in cluster.lus_json(noun, "ls") if target.iqn in entry.values() or LU in entry.values()]
        qa.require(not left, f"`lus {noun} ls` still has {left}")
    qa.require(LU.partition("/")[2] not in cluster.rbd_json("ls"), f"the image of {LU} is still there")
    lost = qa.run([qa.client("probe"), target.url(0, portal=portal), "tur"], check=False)
    qa.require(lost.returncode == qa.CLIENT_LOST, f"a target that was removed lets in: {lost.stdout}{lost.stderr}")
    qa.say("target, LU and image are gone")


def main():
    block_size, digest = int(os.environ["BLOCK_SIZE"]), qa.digest_wanted()
    cluster = qa.Cluster.given()
    portals = cluster.portals
    qa.require(portals, "`lus daemon ls` has no daemon that is up")
    with cluster.target(NAME) as target:
        lun = target.create(LU, f"{SIZE_MIB}M", "--block-size", str(block_size))
        portal = check_owner(target, lun, portals)
        check_geometry(target.url(lun, portal=portal), block_size)
        check_data(target, lun, portal, digest)
    check_removed(cluster, target, portal)


qa.run_check(main)
