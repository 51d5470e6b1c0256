#!/usr/bin/python3 -Bs
"""QEMU's initiator: an ext4 image of 256 MiB goes to the disk by qemu-img, compares equal, and comes back without a fault; qemu-img's bench reads and writes.

Environment: DIGEST none (default) or header; QA_URL a disk of another gateway, of 256 MiB. That the header digest is really on is read from the login at a relay."""

import json
import pathlib
import random
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import qa  # noqa: E402
import qemu  # noqa: E402
from relay import Relay  # noqa: E402

IMAGE_MIB = 256
FILES_MIB = 96  # of random content in the file system
LARGEST_FILE = 6 << 20
BENCH_REQUESTS = 4000


def make_image(folder):
    """An ext4 image with files of random content, made without mounting."""
    tree, image = folder / "tree", folder / "image"
    dice, left = random.Random(1), FILES_MIB << 20
    tree.mkdir()
    while left > 0:
        size = min(left, dice.randrange(1, LARGEST_FILE))
        path = tree / f"{dice.randrange(16):x}" / f"{left:x}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dice.randbytes(size))
        left -= size
    with open(image, "wb") as file:
        file.truncate(IMAGE_MIB << 20)
    qa.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image])
    shutil.rmtree(tree)
    return image


def check_info(url, digest):
    """The size, and what the login agreed on."""
    portal = url.removeprefix("iscsi://").split("/")[0]
    with Relay(portal) as relay:
        info = qa.run(["qemu-img", "info", "--output=json", "--image-opts", qemu.options(url.replace(portal, relay.portal), digest)]).stdout
        qa.require(relay.agreed("HeaderDigest") == ("CRC32C" if digest else "None"), f"header digest: {relay.agreed('HeaderDigest')}")
    size = json.loads(info)["virtual-size"]
    qa.require(size == IMAGE_MIB << 20, f"qemu-img info: {size} bytes")
    qa.say(f"logged in, header digest {'CRC32C' if digest else 'none'}")


def check_image(folder, url, digest):
    """Convert there, compare, convert back."""
    image, back = make_image(folder), folder / "back"
    qemu.upload(image, url, digest)
    qa.run(["qemu-img", "compare", "--image-opts", f"driver=file,filename={image}", qemu.options(url, digest)], timeout=qemu.LIMIT_S)
    qemu.download(url, back, digest)
    qa.run(["cmp", image, back])
    qa.run(["/sbin/e2fsck", "-f", "-n", back])
    qa.say(f"an ext4 image of {IMAGE_MIB} MiB is equal both ways")


def bench(url, digest):
    """qemu-img's bench, reads and writes."""
    words = ["-c", BENCH_REQUESTS, "-d", 32, "-s", 4096, "-S", 16384, "--image-opts", qemu.options(url, digest)]
    reads = qa.run(["qemu-img", "bench", *words], timeout=qemu.LIMIT_S).stdout.splitlines()[-1]
    writes = qa.run(["qemu-img", "bench", "-w", *words], timeout=qemu.LIMIT_S).stdout.splitlines()[-1]
    qa.say(f"{BENCH_REQUESTS} reads: {reads}; writes: {writes}")


def main():
    digest = qa.digest_wanted()
    with qa.disk("qemu", f"{IMAGE_MIB}M") as url:
        check_info(url, digest)
        check_image(pathlib.Path.cwd(), url, digest)
        bench(url, digest)


qa.run_check(main)
