"""A Linux host with the kernel's iSCSI initiator and dm-multipath, as a virtual machine of this one: image, machine, and what runs in it."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lib"))
# Git ignores it.
CACHE = ROOT / "target" / "qa" / "vm"
