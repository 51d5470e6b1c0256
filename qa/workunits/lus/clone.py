#!/usr/bin/python3 -Bs
"""A clone as a disk: it reads as its parent's snapshot until it is written; what is written, unmapped or zeroed in part copies the rest of the object up; the parent
never changes. It is flattened while it is served and written to, and lives on when the parent is gone.

Environment: DIGEST none (default) or header."""

import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import qemu  # noqa: E402

PARENT, SNAPSHOT, CLONE = "rbd/qa-parent", "rbd/qa-parent@base", "rbd/qa-clone"
SIZE_MIB = 48
OBJECT = 4 << 20  # bytes of an object where `rbd create` is not told otherwise
OPERATIONS = 200
DIGEST = qa.digest_wanted()


def make_parent(cluster, folder):
    """A parent of random bytes and its snapshot; the file with what it holds."""
    original = folder / "original"
    with open(original, "wb") as file:
        for _ in range(SIZE_MIB):
            file.write(os.urandom(qa.MIB))
    cluster.rbd("import", "--no-progress", original, PARENT)
    cluster.rbd("snap", "create", "--no-progress", SNAPSHOT)
    cluster.rbd("snap", "protect", SNAPSHOT)
    return original


def check_parent(cluster, original, when):
    """Parent and snapshot hold what they held."""
    copy = original.with_name("parent")
    for image in (PARENT, SNAPSHOT):
        qemu.export(cluster, image, copy)
        result = qa.run(["cmp", original, copy], check=False)
        qa.require(result.returncode == 0, f"{image} changed {when}: {(result.stdout + result.stderr).strip()}")
        copy.unlink()


def own_bytes(cluster):
    """What the clone has in objects of its own; `rbd du` knows it by the object map."""
    return next(image["used_size"] for image in cluster.rbd_json("du", CLONE)["images"] if "snapshot" not in image)


def check_copy_up(cluster, twin, url):
    """Reading copies nothing up; single blocks in two objects copy up two; the unmapping of a whole object hides the parent's."""
    twin.compare_all(cluster, CLONE, url, DIGEST)
    qa.require(own_bytes(cluster) == 0, f"the clone has {own_bytes(cluster)} bytes of its own before it is written")
    for command, offset in (("write -P 165", OBJECT + 512 * 9), ("write -z", 3 * OBJECT + 512 * 5)):
        qemu.io(url, [f"{command} {offset} 512", "flush"], DIGEST)
        with open(twin.path, "r+b") as file:
            file.seek(offset)
            file.write((b"\xa5" if "-P" in command else b"\0") * 512)
    qa.require(own_bytes(cluster) == 2 * OBJECT, f"two objects were written in part, but {own_bytes(cluster)} bytes are the clone's own")
    twin.discard(url, 5 * OBJECT, 2 * OBJECT, DIGEST)
    twin.compare_all(cluster, CLONE, url, DIGEST)
    qa.say("the clone reads as the snapshot; partial writes copy their objects up; unmapped objects hide the parent's")


def main():
    cluster, folder = qa.Cluster.given(), pathlib.Path.cwd()
    try:
        with cluster.target("clone") as target:
            original = make_parent(cluster, folder)
            cluster.rbd("clone", SNAPSHOT, CLONE)
            url = target.url(target.add(CLONE))
            twin = qemu.Twin(shutil.copy(original, folder / "twin"), SIZE_MIB << 20)
            check_copy_up(cluster, twin, url)
            twin.change(url, OPERATIONS, DIGEST)
            twin.compare_all(cluster, CLONE, url, DIGEST)
            check_parent(cluster, original, "when the clone was written")
            qa.say(f"{twin.told()}; iSCSI and librbd read what was written, the parent is as it was")

            flatten = qa.spawn(["rbd", "flatten", "--no-progress", CLONE], env=cluster.env)
            twin.change(url, OPERATIONS, DIGEST)
            qa.require(flatten.wait(120) == 0, f"rbd flatten exited with {flatten.returncode}")
            qa.require("parent" not in cluster.rbd_json("info", CLONE), "the clone has a parent after it was flattened")
            check_parent(cluster, original, "when the clone was flattened")
            cluster.rbd("snap", "unprotect", SNAPSHOT)
            cluster.rbd("snap", "rm", "--no-progress", SNAPSHOT)
            cluster.rbd("rm", "--no-progress", PARENT)
            twin.change(url, OPERATIONS // 4, DIGEST)
            twin.compare_all(cluster, CLONE, url, DIGEST)
            qa.say("flattened while it was written to, it lives without its parent")
    finally:
        # Only a run that failed leaves any of these.
        cluster.rbd("snap", "unprotect", SNAPSHOT, check=False)
        cluster.rbd("snap", "purge", "--no-progress", PARENT, check=False)
        cluster.rbd("rm", "--no-progress", PARENT, check=False)


qa.run_check(main)
