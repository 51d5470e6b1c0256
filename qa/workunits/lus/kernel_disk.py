#!/usr/bin/python3 -Bs
"""What a Debian host does with a disk for good: an ext4 is made, filled until no more fits, and checked; what is removed is trimmed and leaves the pool; the disk grows
while the file system is mounted. What the host reads and what librbd exports is the same. With blocks of 512 bytes, and but for the growth of 4096.

Environment: none. Takes root where it runs (the image of the virtual machine is made once)."""

import hashlib
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import guest  # noqa: E402
import qa  # noqa: E402

NAME, IMAGE = "kernel-disk", "rbd/qa-kernel-disk"
BLOCKS, GROWN_BLOCK = (512, 4096), 512
MIB, GROWN_MIB = 48, 80
FILE_MIB = 3
# What the image takes at least when it is full, and at most with one file left: objects of 4 MiB that a file, the journal or tables are in stay.
FULL_MIB, TRIMMED_MIB = 40, 24
MOUNT = "/run/mnt"
# A file for each call, until the disk is full; the last one, which does not fit, goes. Sums are in memory; MD5 takes an emulated processor a quarter of SHA-256's time.
FILL = f"""\
fill() {{
    local number=$1
    while head -c {FILE_MIB}M /dev/urandom >/run/content && cp /run/content {MOUNT}/f$number 2>/run/why; do
        md5sum </run/content | sed "s|-|f$number|" >>/run/sums
        number=$((number + 1))
    done
    grep -q 'No space left' /run/why
    rm {MOUNT}/f$number
    echo $number
}}
"""


def check_equal(cluster, machine, device, when):
    """The disk by the kernel's initiator, past its cache, and the image by librbd."""
    seen = machine.read(f"sync; dd if={device} iflag=direct bs=1M status=none | md5sum").split()[0]
    with subprocess.Popen(["rbd", "export", "--no-progress", IMAGE, "-"], stdout=subprocess.PIPE, env=cluster.env) as export:
        there = hashlib.file_digest(export.stdout, "md5").hexdigest()
    qa.require(export.returncode == 0 and seen == there, f"{when}: the host reads {seen}, librbd exports {there}")


def used_mib(cluster):
    """What the image takes, by its object map."""
    return cluster.rbd_json("du", IMAGE)["images"][0]["used_size"] >> 20


def check_file_system(machine, device, count):
    """Unmounted, by e2fsck; mounted again, which empties the cache, by sums."""
    machine.do(f"umount {MOUNT}; e2fsck -fn {device}; mount -o errors=remount-ro {device} {MOUNT}; cd {MOUNT}; md5sum --check --quiet /run/sums; [ $(wc -l </run/sums) = {count} ]")


def check_fill(cluster, machine, device, block):
    machine.do(f"[ $(blockdev --getss {device}) = {block} ]; mkfs.ext4 -q -F -b 4096 {device}; mkdir -p {MOUNT}; mount -o errors=remount-ro {device} {MOUNT}; : >/run/sums")
    count = int(machine.read(f"{FILL}fill 0"))
    qa.require(count * FILE_MIB > MIB / 2, f"only {count} files of {FILE_MIB} MiB fit on a disk of {MIB} MiB")
    check_file_system(machine, device, count)
    check_equal(cluster, machine, device, "full")
    qa.require(used_mib(cluster) >= FULL_MIB, f"a full disk takes {used_mib(cluster)} MiB")
    qa.say(f"an ext4 is full with {count} files of {FILE_MIB} MiB, clean, and each file is right")


def check_trim(cluster, machine, device):
    before = used_mib(cluster)
    machine.do(f"cd {MOUNT}; ls | grep -vE '^(f0|lost.found)$' | xargs rm; sync; fstrim {MOUNT}; head -1 /run/sums >/run/one; mv /run/one /run/sums")
    after = used_mib(cluster)
    qa.require(after <= TRIMMED_MIB, f"after fstrim the image takes {after} MiB")
    check_file_system(machine, device, 1)
    qa.say(f"removed and trimmed: the image took {before} MiB, and takes {after}")


def check_growth(cluster, machine, device):
    """The size is told by a unit attention, and read at the host's rescan, under a file system that stays mounted."""
    block = f"/sys/block/{device.removeprefix('/dev/')}"
    cluster.lus("lu", "resize", IMAGE, f"{GROWN_MIB}M")
    qa.await_true("the unit attention of a new size", lambda: machine.status(f"sg_turs {device}; dmesg | grep -q 'Capacity data has changed'")[0] == 0, 60, 1)
    machine.do("iscsiadm -m session --rescan >/dev/null")
    qa.await_true("the new size", lambda: machine.read(f"cat {block}/size").strip() == str(GROWN_MIB << 11), 60, 1)
    machine.do(f"resize2fs {device} 2>&1")
    count = int(machine.read(f"{FILL}fill 1"))
    qa.require(count * FILE_MIB > GROWN_MIB / 2, f"only {count} files of {FILE_MIB} MiB fit on a disk of {GROWN_MIB} MiB")
    check_file_system(machine, device, count)
    check_equal(cluster, machine, device, "grown")
    qa.say(f"grown to {GROWN_MIB} MiB under a mounted file system: {count} files, clean, and each is right")


def check_disk(cluster, machine, block):
    """A disk with blocks of this many bytes."""
    with cluster.target(NAME) as target:
        target.create(IMAGE, f"{MIB}M", "--block-size", str(block))
        node = guest.Node(machine, target.iqn, cluster.portals[0])
        node.discover()
        node.login()
        device = node.disk()
        qa.say(f"blocks of {block} bytes")
        check_fill(cluster, machine, device, block)
        check_trim(cluster, machine, device)
        if block == GROWN_BLOCK:
            check_growth(cluster, machine, device)
        machine.do(f"umount {MOUNT}")
        node.logout()


def main():
    cluster = qa.Cluster.given()
    with guest.initiator() as machine:
        for block in BLOCKS:
            check_disk(cluster, machine, block)


qa.run_check(main)
