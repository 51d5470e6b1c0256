#!/usr/bin/python3 -Bs
"""A guest boots from an LU: QEMU's BIOS reads the boot loader by QEMU's iscsi driver, the boot loader reads kernel and initramfs, and the guest's root is a partition of
the LU. It writes to it; after its end the image has what it wrote, by librbd and without iSCSI, and its file system is clean; a second boot finds it.

Environment: none. Takes root where it runs (the guest's system is made once)."""

import hashlib
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import guest  # noqa: E402
import qa  # noqa: E402
import qemu  # noqa: E402

NAME, IMAGE = "boot", "rbd/qa-boot"
# The LU is larger than what is on it.
SPARE = 16 << 20
FILE, FILE_MIB = "/root/written", 6
ROOM = 1 << 20  # before the partition
END_SECONDS = 120


def check_boot(machine, size):
    """It is the boot loader's kernel, on the LU's partition, of the LU's size."""
    shown = machine.read("cat /proc/cmdline; findmnt -no SOURCE /; blockdev --getsize64 /dev/vda").splitlines()
    qa.require(shown[0].startswith("BOOT_IMAGE=/boot/vmlinuz ") and shown[1:] == ["/dev/vda1", str(size)], f"the guest says {shown}")


def shut_down(machine):
    """Everything is on the disk, and the machine off."""
    machine.do("sync; setsid bash -c 'sleep 1; echo u >/proc/sysrq-trigger; sleep 3; echo o >/proc/sysrq-trigger' >/dev/null 2>&1 &")
    qa.await_true("the end of the guest", lambda: machine.status("true")[0] == 125, END_SECONDS, 1)
    said = "\n".join(machine.console())
    qa.require("reboot: Power down" in said and "I/O error" not in said, f"the guest's last words are {said[-1000:]}")


def check_image(cluster, folder, digest):
    """What librbd exports: a clean file system, with the file."""
    image, partition, file = folder / "image", folder / "partition", folder / "file"
    qemu.export(cluster, IMAGE, image)
    qa.run(["dd", f"if={image}", f"of={partition}", f"bs={ROOM}", "skip=1", "conv=sparse", "status=none"])
    checked = qa.run(["/sbin/e2fsck", "-f", "-n", partition], check=False)
    qa.require(checked.returncode == 0, f"e2fsck: {checked.stdout}{checked.stderr}")
    qa.run(["/sbin/debugfs", "-R", f"dump {FILE} {file}", partition])
    with open(file, "rb") as dumped:
        found = hashlib.file_digest(dumped, "sha256").hexdigest()
    qa.require(found == digest, f"the image's {FILE} has the sum {found}, the guest wrote {digest}")
    for path in (image, partition, file):
        path.unlink()


def main():
    folder = pathlib.Path.cwd()
    cluster = qa.Cluster.given()
    with cluster.target(NAME) as target:
        disk = folder / "disk"
        qa.run([qa.QA / "vm", "disk", disk], timeout=guest.UP_SECONDS)
        size = disk.stat().st_size + SPARE
        url = target.url(target.create(IMAGE, f"{size >> 20}M"))
        qemu.upload(disk, url)
        disk.unlink()
        with guest.machine("--disk", qemu.options(url, digest=True)) as machine:
            check_boot(machine, size)
            digest = machine.read(f"head -c {FILE_MIB}M /dev/urandom >{FILE}; sha256sum {FILE}").split()[0]
            begun = time.monotonic()
            shut_down(machine)
        qa.say(f"a guest has booted from {url} and written to it; off after {time.monotonic() - begun:.1f} s")
        check_image(cluster, folder, digest)
        qa.say("the image has what it wrote, and its file system is clean")
        with guest.machine("--disk", qemu.options(url)) as machine:
            check_boot(machine, size)
            found = machine.read(f"sha256sum {FILE}").split()[0]
            qa.require(found == digest, f"after the next boot {FILE} has the sum {found}, not {digest}")
            shut_down(machine)
        qa.say("it boots again, and finds what it wrote")


qa.run_check(main)
