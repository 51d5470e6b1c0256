#!/usr/bin/python3 -Bs
"""Snapshots that are taken while a disk is written to.

The client (qa/clients/durability.c) logs outside the daemon what it submitted and what was acknowledged. Of a snapshot that was asked for at one record of the log and
was there at another, each block must hold what was acknowledged before the first record or submitted before the second, whole. The check proves first that it can
fail: against the log as it stands later the snapshot must be wrong. Snapshots are read through iSCSI, as clones, and by `rbd export`; both must agree. A rollback is
refused while the disk is served; after its LU ended it is done, and the disk, served again, holds the snapshot.

Environment: DIGEST none (default) or header."""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import qemu  # noqa: E402

IMAGE = "rbd/qa-snapshots"
SIZE = "64M"
BLOCKS = 8192  # of 4 KiB that are written to
SNAPSHOTS = 3
BETWEEN_S = 1.5  # of writing before each snapshot
CLIENT_S = 120  # limit of one run of the client
LUN = 0


def client(*words, expect=qa.CLIENT_FINE):
    """Runs the client to its end; its report."""
    env = qa.digest_env() if qa.digest_wanted() else None
    result = qa.run([qa.client("durability"), *words], check=False, timeout=CLIENT_S, env=env)
    if result.returncode != expect:
        raise qa.Failed(f"durability {' '.join(map(str, words))} exited with {result.returncode}, not {expect}\n{result.stdout}{result.stderr}".rstrip())
    return json.loads(result.stdout.splitlines()[-1])


def records(log):
    """How many records the log has; the last may just be being written."""
    return log.read_bytes().count(b"\n")


def cut(log, first, last, path):
    """The log of a snapshot that was taken between two records: what was acknowledged between them may or may not be in it, so it counts as submitted only."""
    lines = log.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:first] + [line for line in lines[first:last] if line[0] == "S"]))


def take(cluster, log, url):
    """Writes and takes snapshots meanwhile: {name: (records before, records after)}."""
    env = qa.digest_env() if qa.digest_wanted() else None
    writer = qa.spawn([qa.client("durability"), "write", url, log, "--blocks", BLOCKS, "--seconds", CLIENT_S], stdout=-1, stderr=-1, text=True, env=env)
    qa.require(writer.stdout.readline() == "writing\n", f"the client cannot write: {writer.stderr.read() if writer.poll() else ''}")
    taken = {}
    for number in range(SNAPSHOTS):
        time.sleep(BETWEEN_S)
        first = records(log)
        cluster.rbd("snap", "create", "--no-progress", f"{IMAGE}@{number}")
        taken[str(number)] = (first, records(log))
        qa.require(writer.poll() is None, f"the client ended at snapshot {number}: {writer.stderr.read() if writer.poll() is not None else ''}")
    time.sleep(BETWEEN_S)
    writer.terminate()
    out, err = writer.communicate(timeout=CLIENT_S)
    qa.require(writer.returncode == qa.CLIENT_FINE, f"the client ended with {writer.returncode}\n{out}{err}")
    report = json.loads(out.splitlines()[-1])
    client("check", url, log)
    qa.say(f"{SNAPSHOTS} snapshots during {report['acknowledged']} acknowledged writes, the longest of which took {report['longest_s']:.2f} s")
    return taken


def check_snapshot(cluster, target, log, name, first, last):
    """One snapshot, served as a clone."""
    snapshot, clone = f"{IMAGE}@{name}", f"{IMAGE}-{name}"
    cluster.rbd("snap", "protect", snapshot)
    cluster.rbd("clone", snapshot, clone)
    url = target.url(target.add(clone, lun=1 + int(name)))
    own = log.with_name(f"log.{name}")
    cut(log, first, last, own)
    found = client("check", url, own)
    whole = log.with_name("log.whole")
    whole.write_bytes(log.read_bytes())
    stale = client("check", url, whole, expect=qa.CLIENT_FOUND)
    qa.require(stale["lost"] + stale["undone"] > 0, f"against the whole log snapshot {name} shows nothing amiss: {stale}")
    check_export(cluster, snapshot, url)
    cluster.lus("lu", "rm", clone, "--yes-i-really-mean-it")
    target.lus.remove(clone)
    cluster.rbd("snap", "unprotect", snapshot)
    qa.say(
        f"snapshot {name}, taken within {last - first} records: {found['checked_blocks']} blocks right, {found['decided_blocks']} of them with open writes "
        f"(against the whole log {stale['lost']} would be lost, {stale['undone']} undone)"
    )


def check_export(cluster, image, url):
    """librbd and iSCSI read the same."""
    by_librbd, by_iscsi = pathlib.Path("by-librbd"), pathlib.Path("by-iscsi")
    qemu.export(cluster, image, by_librbd)
    qemu.download(url, by_iscsi, qa.digest_wanted())
    result = qa.run(["cmp", by_librbd, by_iscsi], check=False)
    qa.require(result.returncode == 0, f"{image} and {url} differ: {(result.stdout + result.stderr).strip()}")
    by_librbd.unlink()
    by_iscsi.unlink()


def check_rollback(cluster, target, log, name, first, last):
    """Refused while it is served, done afterwards."""
    url = target.url(LUN)
    refused = cluster.rbd("snap", "rollback", "--no-progress", f"{IMAGE}@{name}", check=False)
    qa.require(refused.returncode != 0, "a rollback was done under the feet of a served disk")
    client("check", url, log)
    target.give_back(IMAGE)
    cluster.rbd("snap", "rollback", "--no-progress", f"{IMAGE}@{name}")
    url = target.url(target.add(IMAGE, lun=LUN))
    own = log.with_name("log.rollback")
    cut(log, first, last, own)
    client("check", url, own)
    check_export(cluster, f"{IMAGE}@{name}", url)
    qa.say(f"the rollback to snapshot {name} was refused while the disk was served, and done afterwards: {refused.stderr.strip().splitlines()[-1]}")


def main():
    cluster, log = qa.Cluster.given(), pathlib.Path.cwd() / "log"
    try:
        with cluster.target("snapshots") as target:
            cluster.rbd("create", "--size", SIZE, IMAGE)
            url = target.url(target.add(IMAGE, lun=LUN))
            taken = take(cluster, log, url)
            for name, (first, last) in taken.items():
                check_snapshot(cluster, target, log, name, first, last)
            check_rollback(cluster, target, log, "1", *taken["1"])
            target.give_back(IMAGE)
            cluster.rbd("snap", "purge", "--no-progress", IMAGE)
            cluster.rbd("rm", "--no-progress", IMAGE)
    finally:
        if IMAGE.split("/")[1] in cluster.rbd_json("ls", "rbd"):
            # Only a run that failed comes here.
            for name in range(SNAPSHOTS):
                cluster.rbd("rm", "--no-progress", f"{IMAGE}-{name}", check=False)
                cluster.rbd("snap", "unprotect", f"{IMAGE}@{name}", check=False)
            cluster.rbd("snap", "purge", "--no-progress", IMAGE, check=False)
            cluster.rbd("rm", "--no-progress", IMAGE, check=False)


qa.run_check(main)
