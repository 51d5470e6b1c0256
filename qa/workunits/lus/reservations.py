#!/usr/bin/python3 -Bs
"""What the death of the owner must not undo: persistent reservations, and the knowledge that a disk is half erased.

- A host registers for all target ports (ALL_TG_PT, APTPL) and reserves the disk. Its owner is killed. At the next owner the registration and the reservation are there, the
  other host's write conflicts, and the host's own is taken.
- SANITIZE OVERWRITE is under way when the owner is killed. The next owner answers 03/31/03 to what touches blocks, until a SANITIZE has ended well.

The job kills lus.a in the first window, and lus.b in the second (qa/lib/disturb.py); they start again when a window ends. Environment: EXPECT, as there."""

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import cdbs  # noqa: E402
import disturb  # noqa: E402
import qa  # noqa: E402

LU, SIZE = "rbd/qa-reservations", "1G"  # so that it takes seconds to overwrite
HOST, OTHER = f"{qa.IQN}.host:first", f"{qa.IQN}.host:other"
KEY = 0x6C75730000000001
REGISTER, RESERVE, CLEAR = 0, 1, 3
READ_KEYS, READ_RESERVATION = 0, 1
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
ALL_PORTS_AND_KEPT = 4 | 1
OVERWRITE, BLOCK_ERASE, EXIT_FAILURE_MODE = 1, 2, 31
CONFLICT = "status 18"
SANITIZE_FAILED, SANITIZE_IN_PROGRESS = "03/31/03", "02/04/1b"
INVALID_FIELD_IN_CDB = "05/24/00"
MOVE_S = 60


class Disk:
    """The LU, by whichever daemon serves it."""

    def __init__(self, cluster, target, lun):
        self.cluster, self.target, self.lun = cluster, target, lun

    def owner(self):
        """The daemon that serves the LU, or none."""
        (shown,) = [lu for lu in self.cluster.lus_json("lu", "ls") if lu["name"] == LU]
        return shown["owner"] if shown["state"] == "serving" else None

    def put(self, daemon):
        """Has this daemon serve it."""
        if self.owner() != daemon:
            self.cluster.lus("lu", "move", LU, daemon)
        self.await_owner(daemon)

    def await_owner(self, daemon):
        """Waits until this daemon serves it."""
        qa.await_true(f"{LU} served by lus.{daemon}", lambda: self.owner() == daemon, MOVE_S, pause=0.5)

    def host(self, name):
        """A session at the owner."""
        owner = self.owner()
        (daemon,) = [daemon for daemon in self.cluster.lus_json("daemon", "ls") if daemon["id"] == owner]
        return cdbs.Host(self.target.url(self.lun, portal=daemon["portals"][0]), name)


def check_reservations(watch, disk):
    disk.put("a")
    host, other = disk.host(HOST), disk.host(OTHER)
    host.expect("good", *_out(cdbs.reserve_out(REGISTER, 0, 0, KEY, ALL_PORTS_AND_KEPT)))
    host.expect("good", *_out(cdbs.reserve_out(RESERVE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, KEY, 0)))
    host.expect("good", *_out(cdbs.write(0, 1)))
    other.expect(CONFLICT, *_out(cdbs.write(0, 2)))
    with watch.window(lambda: None):
        qa.say("reserved; lus.a is to be killed")
        disk.await_owner("b")
        host.end()
        other.end()
        host, other = disk.host(HOST), disk.host(OTHER)
        other.expect(CONFLICT, *_out(cdbs.write(0, 3)))
        other.expect("good", cdbs.read(0), cdbs.BLOCK)
        keys = host.expect("good", cdbs.reserve_in(READ_KEYS), 512)
        qa.require(keys[4:16] == struct.pack(">IQ", 8, KEY), f"READ KEYS after the move: {keys.hex()}")
        held = host.expect("good", cdbs.reserve_in(READ_RESERVATION), 512)
        qa.require(held[4:16] == struct.pack(">IQ", 16, KEY) and held[21] == WRITE_EXCLUSIVE_REGISTRANTS_ONLY, f"READ RESERVATION after the move: {held.hex()}")
        qa.require(host.expect("good", cdbs.read(0), cdbs.BLOCK) == bytes([1]) * cdbs.BLOCK, "what was written before is not there")
        host.expect("good", *_out(cdbs.write(1, 4)))
        host.expect("good", *_out(cdbs.reserve_out(CLEAR, 0, KEY, 0)))
        other.expect("good", *_out(cdbs.write(0, 5)))
        host.end()
        other.end()
    qa.say("the reservation outlived its owner")


def check_half_erased(watch, disk):
    disk.put("b")
    host = disk.host(HOST)
    host.expect("good", *_out(cdbs.sanitize(OVERWRITE, immediate=True, pattern=b"\xa5")))
    host.expect(SANITIZE_IN_PROGRESS, *_out(cdbs.write(0, 6)))
    with watch.window(lambda: None):
        qa.say("half erased; lus.b is to be killed")
        disk.await_owner("a")
        host.end()
        host = disk.host(HOST)
        host.expect(SANITIZE_FAILED, cdbs.read(0), cdbs.BLOCK)
        host.expect(SANITIZE_FAILED, *_out(cdbs.write(0, 7)))
        # Not allowed: AUSE was not set.
        host.expect(INVALID_FIELD_IN_CDB, *_out(cdbs.sanitize(EXIT_FAILURE_MODE)))
        host.expect(SANITIZE_FAILED, cdbs.read(0), cdbs.BLOCK)
        host.expect("good", *_out(cdbs.sanitize(BLOCK_ERASE)))
        qa.require(host.expect("good", cdbs.read(0), cdbs.BLOCK) == bytes(cdbs.BLOCK), "what was erased does not read as zeroes")
        host.expect("good", *_out(cdbs.write(0, 8)))
        host.end()
    qa.say("what was half erased was not taken for erased")


def _out(command):
    cdb, data = command
    return cdb, 0, data


def main():
    cluster = qa.Cluster.given()
    with cluster.target("reservations") as target:
        disk = Disk(cluster, target, target.create(LU, SIZE))
        check_reservations(disturb.Watch(cluster), disk)
        qa.await_true("lus.a again", lambda: len(cluster.portals) == 2, MOVE_S, pause=0.5)
        check_half_erased(disturb.Watch(cluster), disk)


qa.run_check(main)
