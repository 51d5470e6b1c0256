"""QEMU's tools as an initiator: whole disks out and back, single operations by qemu-io, and a twin of a disk that both are compared with."""

import itertools
import pathlib
import random

import qa

LIMIT_S = 300  # of one command of QEMU's
OPERATIONS_PER_RUN = 200  # of qemu-io; its command line is bounded
LARGEST = 160 << 10  # bytes of one random operation


def options(url, digest=False):
    """The URL in the form of QEMU's options, which carry the header digest; its URLs do not."""
    portal, iqn, lun = url.removeprefix("iscsi://").split("/")
    return f"driver=iscsi,transport=tcp,portal={portal},target={iqn},lun={lun},header-digest={'crc32c' if digest else 'none'}"


def download(url, path, digest=False):
    """The whole disk as it reads over iSCSI, as a raw file at `path`."""
    qa.run(["qemu-img", "convert", "--image-opts", "-O", "raw", options(url, digest), path], timeout=LIMIT_S)


def upload(path, url, digest=False):
    """A raw file of the disk's size onto the disk."""
    qa.run(["qemu-img", "convert", "-n", "-f", "raw", "--target-image-opts", path, options(url, digest)], timeout=LIMIT_S)


def io(url, commands, digest=False):
    """qemu-io's COMMANDS on the disk, one after the other; any that fails, or reads another pattern than it is told to expect, fails the run."""
    words = itertools.chain.from_iterable(("-c", command) for command in commands)
    result = qa.run(["qemu-io", "-d", "unmap", *words, "--image-opts", options(url, digest)], check=False, timeout=LIMIT_S)
    amiss = [line for line in result.stdout.splitlines() if "failed" in line.lower() or "error" in line.lower()]
    if result.returncode != 0 or amiss:
        raise qa.Failed(f"qemu-io exited with {result.returncode}: {(amiss or [result.stdout[-500:]])[0]}\n{result.stderr}".rstrip())
    return result.stdout


class Twin:
    """What a disk must hold: a file beside it that every operation is applied to as well.

    Operations are random but repeatable: writes of patterns (some with FUA), UNMAP, and WRITE SAME of zeroes with and without the leave to unmap, aligned to
    blocks but rarely to objects. An unmapped block must read as zeroes, which is what librbd and LBPRZ promise.
    """

    KINDS = (("write", 5), ("write_fua", 1), ("discard", 2), ("zero", 1), ("zero_unmap", 1))

    def __init__(self, path, size, block_size=512, seed=1):
        self.path = pathlib.Path(path)
        self.size, self.block_size = size, block_size
        self.dice = random.Random(seed)
        self.done = dict.fromkeys((kind for kind, _ in self.KINDS), 0)
        if not self.path.exists():
            with open(self.path, "wb") as file:
                file.truncate(size)
        qa.require(self.path.stat().st_size == size, f"{self.path} has {self.path.stat().st_size} bytes, the disk {size}")

    def _draw(self):
        """One operation as qemu-io's command; the file has taken it already."""
        kinds, weights = zip(*self.KINDS, strict=True)
        kind = self.dice.choices(kinds, weights)[0]
        length = self.dice.randrange(self.block_size, LARGEST, self.block_size)
        offset = self.dice.randrange(0, self.size - length, self.block_size)
        pattern = self.dice.randrange(1, 256) if kind.startswith("write") else 0
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(bytes([pattern]) * length)
        self.done[kind] += 1
        verb = {"write": f"write -P {pattern}", "write_fua": f"write -f -P {pattern}", "discard": "discard", "zero": "write -z", "zero_unmap": "write -z -u"}
        return f"{verb[kind]} {offset} {length}"

    def change(self, url, count, digest=False):
        """COUNT random operations on the disk and on the file, then a flush."""
        for begin in range(0, count, OPERATIONS_PER_RUN):
            io(url, [*(self._draw() for _ in range(min(OPERATIONS_PER_RUN, count - begin))), "flush"], digest)

    def discard(self, url, offset, length, digest=False):
        """UNMAP of one range, which may be larger than one command takes."""
        step = 16 << 20
        io(url, [f"discard {at} {min(step, offset + length - at)}" for at in range(offset, offset + length, step)] + ["flush"], digest)
        with open(self.path, "r+b") as file:
            file.seek(offset)
            for at in range(0, length, step):
                file.write(bytes(min(step, length - at)))

    def compare(self, path, whose):
        """The twin and another copy of the disk are the same, byte for byte."""
        result = qa.run(["cmp", self.path, path], check=False)
        qa.require(result.returncode == 0, f"{whose} differs from what was written: {(result.stdout + result.stderr).strip()}")

    def compare_all(self, cluster, image, url, digest=False):
        """What iSCSI reads and what librbd exports are both the twin."""
        copy = self.path.with_name("copy")
        for whose, fetch in ((f"{url} over iSCSI", lambda: download(url, copy, digest)), (f"rbd export of {image}", lambda: export(cluster, image, copy))):
            copy.unlink(missing_ok=True)
            fetch()
            self.compare(copy, whose)
        copy.unlink()

    def told(self):
        """What was done so far, in words."""
        return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in self.done.items())


def export(cluster, image, path):
    """The image (or image@snapshot) as librbd reads it, as a raw file at `path`, which must not exist."""
    result = cluster.rbd("export", "--no-progress", image, path, check=False)
    qa.require(result.returncode == 0, f"rbd export {image}: {result.stderr.strip()}")
