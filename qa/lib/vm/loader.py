"""The boot loader of the guest's disk: Debian's GRUB for a BIOS, put together here instead of by its installer, which would want the disk itself.

A disk that boots has the sector that a BIOS starts, GRUB's core from the next sector on, and one partition, the root disk, with kernel and initramfs in `/boot`.
"""

import shutil
import struct

from ui import Failure

PACKAGES = "grub-common grub-pc-bin".split()
# A BIOS's disks, a partition with ext4, a kernel of Linux, and the serial port for what it has to say.
MODULES = "biosdisk part_msdos ext2 linux serial terminal".split()
# How the kernel is started, by QEMU and by GRUB alike.
KERNEL_OPTIONS = "console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nokaslr"
SECTOR = 512
# Bytes before the partition.
ROOM = 1 << 20
CONFIGURATION = f"""\
serial --unit=0
terminal_output serial
set root=(hd0,msdos1)
linux /boot/vmlinuz {KERNEL_OPTIONS} disk=/dev/vda1
initrd /boot/initrd
boot
"""
# Of the first sector: where the table of partitions begins (four entries, two bytes), and what a BIOS looks for.
PARTITIONS_AT, ENTRY = 446, struct.Struct("<B3sB3sII")
MARK = b"\x55\xaa"
ACTIVE, LINUX = 0x80, 0x83
# Cylinder, head and sector of who counts in sectors.
NO_GEOMETRY = b"\xfe\xff\xff"


def take(root, run):
    """(first sector, core) of GRUB, made with its packages in the guest's folder, which are gone from there afterwards. `run` runs a command."""
    (root / "loader.cfg").write_text(CONFIGURATION)
    run(["chroot", root, "grub-mkimage", "--format=i386-pc", "--output=/core.img", "--prefix=(hd0,msdos1)/boot", "--config=/loader.cfg", *MODULES])
    grub = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes(), (root / "core.img").read_bytes()
    for path in (root / "loader.cfg", root / "core.img", *root.glob("usr/*bin/grub-*")):
        path.unlink()
    shutil.rmtree(root / "usr/lib/grub")
    return grub


def furnish(root, kernel, initrd):
    """What the boot loader reads, in `/boot`: the kernel as Debian packed it, and the initramfs."""
    (root / "boot").mkdir()
    (root / "boot" / "vmlinuz").write_bytes(kernel)
    shutil.copy(initrd, root / "boot" / "initrd")


def write(path, grub, partition):
    """The bytes before the partition, which is to hold the file `partition`. Sector 1 is where the first sector looks for the core, unless it is told otherwise."""
    first, core = grub
    if len(first) != SECTOR or len(core) > ROOM - SECTOR:
        raise Failure(f"GRUB's parts have {len(first)} and {len(core)} bytes, and do not fit before the partition")
    entry = ENTRY.pack(ACTIVE, NO_GEOMETRY, LINUX, NO_GEOMETRY, ROOM // SECTOR, partition.stat().st_size // SECTOR)
    path.write_bytes((first[:PARTITIONS_AT] + entry + bytes(3 * ENTRY.size) + MARK + core).ljust(ROOM, b"\0"))
