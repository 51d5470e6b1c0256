#!/usr/bin/python3 -Bs
"""Images that `rbd` made, of any kind that librbd has, as disks.

Each of IMAGES is made by `rbd create` with the words of CREATE, becomes an LU, and takes random writes, UNMAP and WRITE SAME of zeroes over iSCSI. What iSCSI reads
and what librbd exports must be what was written, and nothing of one image may show in another. When all is unmapped nothing may be left in the pool. The LU goes,
the image stays and is still readable; then it is removed.

Environment: IMAGES `rbd/a rbd/namespace/b`, namespaces are made; CREATE, options of `rbd create`, such as `--data-pool ec`; FEATURES, the features that the images must
have then, as `rbd info` names them; BLOCK_SIZE 512 (default) or 4096; DIGEST none (default) or header."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import qemu  # noqa: E402

SIZE_MIB = 64
OPERATIONS = 400
CREATE = os.environ.get("CREATE", "").split()
FEATURES = os.environ.get("FEATURES", "").split()
BLOCK_SIZE = int(os.environ.get("BLOCK_SIZE", "512"))
DIGEST = qa.digest_wanted()


def stored(cluster, image):
    """Bytes that the image has in objects."""
    return sum(extent["length"] for extent in cluster.rbd_json("diff", "--whole-object", image))


def namespace_of(image):
    """rbd/namespace of rbd/namespace/image, None of rbd/image."""
    parts = image.split("/")
    return "/".join(parts[:2]) if len(parts) == 3 else None


def make(cluster, image):
    """The image, and its namespace where that is not there."""
    namespace = namespace_of(image)
    if namespace and namespace.split("/")[1] not in [entry["name"] for entry in cluster.rbd_json("namespace", "ls", namespace.split("/")[0])]:
        cluster.rbd("namespace", "create", namespace)
    cluster.rbd("create", "--size", f"{SIZE_MIB}M", *CREATE, image)
    info = cluster.rbd_json("info", image)
    for feature in FEATURES:
        qa.require(feature in info["features"], f"{image} has the features {info['features']}, without {feature}")
    if FEATURES:
        qa.require(len(info["features"]) == len(FEATURES), f"{image} has the features {info['features']}, not just {FEATURES}")
    if "--data-pool" in CREATE:
        pool = CREATE[CREATE.index("--data-pool") + 1]
        qa.require(info.get("data_pool") == pool, f"{image} has its data in {info.get('data_pool')}, not in {pool}")
    return info


def exercise(cluster, disks):
    """Random operations on each, in turns, and what each holds then."""
    for _ in range(2):
        for twin, url in disks.values():
            twin.change(url, OPERATIONS // 2, DIGEST)
        for image, (twin, url) in disks.items():
            twin.compare_all(cluster, image, url, DIGEST)
    for image, (twin, _) in disks.items():
        qa.say(f"{image}: {twin.told()}; iSCSI and librbd read what was written")


def check_fio(url):
    """fio's verify over a part of the disk, at depth."""
    words = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=8M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]
    job = qa.fio(url, *words, digest=DIGEST)["jobs"][0]
    qa.require(0 < job["write"]["io_bytes"] == job["read"]["io_bytes"], f"wrote {job['write']['io_bytes']} bytes, verified {job['read']['io_bytes']}")


def check_unmapped(cluster, image, twin, url):
    """All of it unmapped: zeroes, and no object left."""
    before = stored(cluster, image)
    qa.require(before > 0, f"{image} has no data before it is unmapped")
    twin.discard(url, 0, twin.size, DIGEST)
    twin.compare_all(cluster, image, url, DIGEST)
    left = stored(cluster, image)
    qa.require(left == 0, f"{image}: {left} of {before} bytes are left in the pool although all was unmapped")
    qa.say(f"{image}: all unmapped, {before >> 20} MiB given back to the pool")


def check_given_back(cluster, target, image, twin, url):
    """The LU goes, the image stays as it was last written."""
    twin.change(url, 20, DIGEST)
    target.give_back(image)
    copy = twin.path.with_name("kept")
    qemu.export(cluster, image, copy)
    twin.compare(copy, f"{image} after its LU ended")
    copy.unlink()


def main():
    cluster = qa.Cluster.given()
    images = os.environ.get("IMAGES", "").split()
    qa.require(images, "IMAGES names no image")
    made = []
    try:
        with cluster.target("image") as target:
            disks = {}
            for number, image in enumerate(images, 1):
                make(cluster, image)
                made.append(image)
                url = target.url(target.add(image, "--block-size", str(BLOCK_SIZE)))
                disks[image] = (qemu.Twin(pathlib.Path.cwd() / f"twin.{number}", SIZE_MIB << 20, BLOCK_SIZE, seed=number), url)
            exercise(cluster, disks)
            for image, (twin, url) in disks.items():
                check_fio(url)
                check_unmapped(cluster, image, twin, url)
            for image, (twin, url) in disks.items():
                check_given_back(cluster, target, image, twin, url)
    finally:
        for image in made:
            cluster.rbd("rm", "--no-progress", image, check=False)
        for namespace in {namespace_of(image) for image in made} - {None}:
            cluster.rbd("namespace", "rm", namespace, check=False)


qa.run_check(main)
