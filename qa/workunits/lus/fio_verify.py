#!/usr/bin/python3 -Bs
"""fio writes at random, reads back and verifies: 4 KiB, CRC32C of each block, depth 32.

fio is Debian's, built from its source package with the libiscsi engine.

Environment: DIGEST none (default) or header; SIZE 256M; QA_URL a disk of another gateway, of SIZE at least. That the header digest is really on is read from the
login at a relay."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
from relay import Relay  # noqa: E402

DEPTH = 32


def check_login(url, digest):
    """What fio's login agrees on; the rest goes straight to the portal: the relay would be the bottleneck."""
    portal = url.removeprefix("iscsi://").split("/")[0]
    with Relay(portal) as relay:
        qa.fio(url.replace(portal, relay.portal), "--rw=randread", "--bs=4k", f"--iodepth={DEPTH}", "--size=1m", digest=digest)
        # Without a wish fio offers None before CRC32C; lusd takes the first, tgt the last that it knows.
        expected = ("CRC32C",) if digest else ("None", "CRC32C") if "QA_URL" in os.environ else ("None",)
        qa.require(relay.agreed("HeaderDigest") in expected, f"header digest: {relay.agreed('HeaderDigest')}")


def verify(url, size, digest):
    """One job: write everything at random, then read it back and compare."""
    words = ["--rw=randwrite", "--bs=4k", f"--iodepth={DEPTH}", f"--size={size}", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=1"]
    job = qa.fio(url, *words, digest=digest, timeout=1800)["jobs"][0]
    wrote = job["write"]["io_bytes"]
    qa.require(wrote > 0 and job["read"]["io_bytes"] == wrote, f"wrote {wrote} bytes, verified {job['read']['io_bytes']}")
    qa.say(
        f"header digest {'CRC32C' if digest else 'none'}: {wrote // qa.MIB} MiB written at {job['write']['iops']:.0f} IOPS "
        f"(99 % within {job['write']['clat_ns']['percentile']['99.000000'] / 1e6:.1f} ms), read back at {job['read']['iops']:.0f} IOPS, all equal"
    )


def main():
    digest = qa.digest_wanted()
    size = os.environ.get("SIZE", "256M")
    with qa.disk("fio", size) as url:
        check_login(url, digest)
        verify(url, size, digest)


qa.run_check(main)
