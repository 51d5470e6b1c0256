"""Hosts that send single commands (qa/clients/cdb.c), and the CDBs that workunits about commands need."""

import select
import struct
import subprocess

import qa

ANSWER_S = 90
BLOCK = 512


class Host:
    """A session of one initiator, by libiscsi."""

    def __init__(self, url, initiator):
        pipe = subprocess.PIPE
        self.name = initiator.rsplit(":", 1)[1]
        self.child = qa.spawn([qa.client("cdb"), url, initiator], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def send(self, cdb, data_in=0, data_out=b""):
        """(outcome, data-in) of one command; the outcome is `good`, `KEY/ASC/ASCQ`, `status XX`, or None where the session has ended."""
        words = [cdb.hex(), *([f"={data_out.hex()}"] if data_out else [str(data_in)] if data_in else [])]
        try:
            self.child.stdin.write(" ".join(words) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return None, b""
        ready, _, _ = select.select([self.child.stdout], [], [], ANSWER_S)
        qa.require(ready, f"{self.name}: no answer to {cdb.hex()} within {ANSWER_S} s")
        line = self.child.stdout.readline()
        if self.child.poll() is not None or not line.endswith("\n"):
            return None, b""
        outcome, _, data = line.rstrip("\n").rpartition(" ")
        if not outcome:
            return None, b""
        return outcome, bytes.fromhex(data)

    def expect(self, wanted, cdb, data_in=0, data_out=b""):
        """Data-in of a command that must end so; unit attentions before it are taken."""
        for _ in range(8):
            outcome, data = self.send(cdb, data_in, data_out)
            if outcome is None or not outcome.startswith("06/") or wanted.startswith("06/"):
                break
        qa.require(outcome == wanted, f"{self.name}: {cdb.hex()} ended with {outcome}; wanted {wanted}")
        return data

    def end(self):
        """The session ends."""
        qa.end(self.child)


TEST_UNIT_READY = bytes(6)


def write(lba, fill):
    """One block by WRITE (10): the CDB and the data."""
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, 1, 0), bytes([fill]) * BLOCK


def read(lba):
    """One block by READ (10)."""
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, 1, 0)


def reserve_in(action):
    """PERSISTENT RESERVE IN with room for 512 bytes."""
    return struct.pack(">BB5xHB", 0x5E, action, 512, 0)


def reserve_out(action, kind, key, new, flags=0):
    """PERSISTENT RESERVE OUT: the CDB and its list. `flags` is byte 20: APTPL 1, ALL_TG_PT 4."""
    return struct.pack(">BBB2xIB", 0x5F, action, kind, 24, 0), struct.pack(">QQ4xB3x", key, new, flags)


def sanitize(action, *, immediate=False, pattern=b""):
    """SANITIZE: the CDB and, for OVERWRITE (action 1), its list."""
    data = struct.pack(">BxH", 1, len(pattern)) + pattern if pattern else b""
    return struct.pack(">BB5xHB", 0x48, immediate << 7 | action, len(data), 0), data
