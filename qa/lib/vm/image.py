"""The guest's kernel, initramfs, root disk and boot loader, made once of Debian's own packages as they are.

apt resolves the packages as for an empty system, so that the list is complete whatever this machine has; they are unpacked without their maintainer scripts, and what
those would have made is made here. Of the kernel's modules only those stay that an initiator needs.
"""

import contextlib
import fcntl
import gzip
import hashlib
import lzma
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile

from ui import Failure, progress
from vm import CACHE, HERE, loader

# The guest's networks. QEMU's own defaults could be somebody's networks of portals; these are nobody's: one for benchmarks (RFC 2544), one that is routed nowhere (RFC 4193).
NET = "198.19.255"
NET6 = "fd4c:5553:ff"
WANTED = (
    "bash coreutils util-linux mount grep sed mawk diffutils findutils procps psmisc kmod udev dmsetup iproute2 libc-bin busybox-static qemu-guest-agent "
    "open-iscsi multipath-tools kpartx sg3-utils sg3-utils-udev lsscsi e2fsprogs fio"
).split()
# Needed by maintainer scripts and by tools in Perl and Python only, none of which run here.
UNNEEDED = re.compile(
    r"python3|libpython3|perl|libperl|initramfs-tools|klibc|libklibc|linux-base|linux-image-amd64|dpkg|debconf|adduser|cpio|tar|passwd|login|base-files|"
    r"media-types|sensible-utils|dmidecode|libdb5|libsqlite|libgdbm|init-system-helpers"
)
NOT_UNPACKED = ("./usr/share/*", "./boot/System.map*", "./lib/systemd/system/*", "*/gconv/*", "*/udev/hwdb.d/*")
# What the root disk needs, and then what an initiator needs; modprobe tells what these depend on.
FIRST_MODULES = "virtio_pci virtio_blk ext4 crc32c_generic".split()
MODULES = (
    "virtio_net virtio_console virtio_rng iscsi_tcp sd_mod sg scsi_dh_alua dm_mod dm_multipath dm_service_time dm_round_robin dm_queue_length "
    "sch_ingress cls_u32 act_mirred crc32c_intel crc32_pclmul crct10dif_pclmul"
).split()
# What must run in the guest: it is seen at once whether a library is missing.
PROGRAMS = "iscsid iscsiadm multipathd multipath fio sg_inq sg_rtpg mkfs.ext4 e2fsck debugfs udevadm qemu-ga timeout".split()
# Names that udev's rules use.
GROUPS = {"root": 0, "tty": 5, "disk": 6, "lp": 7, "kmem": 15, "dialout": 20, "cdrom": 24, "tape": 26, "audio": 29, "video": 44, "kvm": 101, "render": 103, "input": 104, "sgx": 105}
STEP_SECONDS = 600


def image():
    """The folder with `vmlinux`, `initrd`, `root.img` and `loader`; makes it where it is missing or older than this recipe."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        # Whoever comes second finds it made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = CACHE / "image"
        stamp = _stamp()
        if not (made / "stamp").is_file() or (made / "stamp").read_text() != stamp:
            _make(made, stamp)
    return made


def _stamp():
    parts = [pathlib.Path(__file__), pathlib.Path(loader.__file__), *sorted((HERE / "guest").iterdir())]
    return hashlib.sha256(b"".join(part.name.encode() + b"\0" + part.read_bytes() for part in parts)).hexdigest()


def _make(made, stamp):
    if platform.machine() != "x86_64":
        raise Failure(f"the guest is of Debian's amd64, and this machine is {platform.machine()}")
    if os.geteuid() != 0:
        raise Failure("the guest's image takes root to be made (chroot)", "repeat as root, once: qa/vm build")
    progress("vm", f"makes the guest's image in {CACHE} (once, takes a minute)")
    # A new folder each time: a machine that runs has the old one's files open.
    work = pathlib.Path(tempfile.mkdtemp(prefix="new.", dir=CACHE))
    try:
        kernel, packages = _fetch(CACHE / "packages")
        root = work / "root"
        _unpack(packages, root)
        _settle(root)
        packaged = (root / "boot" / f"vmlinuz-{kernel}").read_bytes()
        (work / "vmlinux").write_bytes(_elf(packaged))
        first = _keep_modules(root, kernel)
        _require_libraries(root)
        _initramfs(work, root, first)
        grub = loader.take(root, _run)
        shutil.rmtree(root / "boot")
        loader.furnish(root, packaged, work / "initrd")
        _disk(root, work / "root.img")
        loader.write(work / "loader", grub, work / "root.img")
        shutil.rmtree(root)
        (work / "packages").write_text("".join(f"{package.name}\n" for package in packages))
        (work / "stamp").write_text(stamp)
        shutil.rmtree(made, ignore_errors=True)
        work.rename(made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress("vm", f"the image is there: {next(package.name for package in packages if package.name.startswith('linux-image'))}")


def bootable(path):
    """Writes a raw disk from which a BIOS boots the guest: its boot loader, and the root disk as a partition, which the guest then uses as its root."""
    made = image()
    shutil.copy(made / "loader", path)
    _run(["dd", f"if={made / 'root.img'}", f"of={path}", "bs=1M", f"seek={loader.ROOM >> 20}", "conv=notrunc,sparse", "status=none"])
    # It may end with a hole.
    os.truncate(path, loader.ROOM + (made / "root.img").stat().st_size)


# Packages


def _fetch(folder):
    """(kernel release, files of the packages); the archive's present versions, where they are not in the folder already."""
    folder.mkdir(exist_ok=True)
    try:
        return _fetch_listed(folder)
    except Failure:
        # A fresh machine has no package lists; one that was not updated for long has lists of versions that are gone.
        _run(["apt-get", "--quiet", "update"])
        return _fetch_listed(folder)


def _fetch_listed(folder):
    kernel = re.search(r"^\s*Depends: linux-image-(\S+)", _run(["apt-cache", "depends", "linux-image-amd64"]), re.M)
    if not kernel:
        raise Failure("apt knows no package linux-image-amd64", "is this Debian?")
    wanted = {}
    with tempfile.NamedTemporaryFile() as nothing:
        words = ["-o", f"Dir::State::status={nothing.name}", "-o", "Debug::NoLocking=1", "--quiet=2", "--yes", "--no-install-recommends", "--print-uris", "install"]
        # Each line is: 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE HASH
        for line in _run(["apt-get", *words, *WANTED, *loader.PACKAGES, f"linux-image-{kernel[1]}"]).splitlines():
            file = line.split()[1]
            name, version, _ = file.split("_")
            if not UNNEEDED.match(name):
                wanted[file] = f"{name}={version.replace('%3a', ':')}"
    for old in folder.iterdir():
        if old.name not in wanted:
            old.unlink()
    missing = [package for file, package in wanted.items() if not (folder / file).exists()]
    if missing:
        _run(["apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root", "download", *missing], cwd=folder)
    return kernel[1], [folder / file for file in sorted(wanted)]


def _unpack(packages, root):
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc/iscsi", "etc/multipath/conf.d", "var/lib", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    excluded = [f"--exclude={pattern}" for pattern in NOT_UNPACKED]
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            _run(["tar", "--extract", "--keep-directory-symlink", "--directory", root, *excluded], stdin=archive.stdout)
        if archive.returncode != 0:
            raise Failure(f"cannot unpack {package.name}")


def _settle(root):
    """What maintainer scripts, or an administrator, would have made."""
    for link, to in {"usr/bin/awk": "mawk", "usr/bin/sh": "bash", "etc/mtab": "/proc/mounts"}.items():
        (root / link).unlink(missing_ok=True)
        (root / link).symlink_to(to)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("".join(f"{name}:x:{number}:\n" for name, number in GROUPS.items()))
    (root / "init").write_text((HERE / "guest" / "init").read_text().replace("NET.", f"{NET}.").replace("NET6:", f"{NET6}:"))
    (root / "init").chmod(0o755)
    (root / "etc/iscsi/initiatorname.iscsi").write_text("InitiatorName=iqn.1993-08.org.debian:01:lus-host\n")
    _run(["chroot", root, "ldconfig"])


def _require_libraries(root):
    for program in PROGRAMS:
        said = _run(["chroot", root, "bash", "-c", f'ldd "$(command -v {program})"'])
        if "not found" in said:
            raise Failure(f"{program} of the guest lacks a library:\n{said}", "UNNEEDED or NOT_UNPACKED in qa/lib/vm/image.py is to blame")


# Kernel


def _elf(packaged):
    """The kernel as QEMU starts it without a boot loader (PVH). To unpack it here saves seconds of each boot where the processor is emulated."""
    for magic, unpack in ((b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor().decompress(data)), (b"\x1f\x8b\x08", gzip.decompress)):
        at = packaged.find(magic)
        with contextlib.suppress(lzma.LZMAError, OSError, EOFError):
            if at >= 0 and (kernel := unpack(packaged[at:])).startswith(b"\x7fELF"):
                return kernel
    raise Failure("no kernel was found in Debian's vmlinuz: it is packed in a way that is not known here")


def _keep_modules(root, kernel):
    """Removes all modules but those that are wanted and what they depend on; the paths of those for the initramfs, in the order of their loading."""
    _run(["chroot", root, "depmod", "-a", kernel])
    first, every = (_needed(root, kernel, names) for names in (FIRST_MODULES, FIRST_MODULES + MODULES))
    keep = {root / path for path in every}
    for path in (root / "usr/lib/modules" / kernel).glob("kernel/**/*.ko*"):
        if path not in keep:
            path.unlink()
    _run(["chroot", root, "depmod", "-a", kernel])
    return first


def _needed(root, kernel, names):
    said = _run(["chroot", root, "modprobe", "--set-version", kernel, "--show-depends", "--all", *names])
    return list(dict.fromkeys("usr" + path for path in re.findall(r"^insmod (\S+)", said, re.M)))


def _initramfs(work, root, modules):
    tree = work / "first"
    for name in ("bin", "dev", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    shutil.copy(HERE / "guest" / "first", tree / "init")
    (tree / "init").chmod(0o755)
    for path in modules:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, tree / path)
    (tree / "modules").write_text("".join(f"{path}\n" for path in modules))
    names = "".join(f"{path.relative_to(tree)}\0" for path in sorted(tree.glob("**/*")))
    with open(work / "initrd", "wb") as out:
        subprocess.run(["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0", "--null"], cwd=tree, input=names.encode(), stdout=out, check=True)
    shutil.rmtree(tree)


def _disk(root, path):
    # GRUB does not read what has a seed for its checksums.
    size = sum(file.lstat().st_blocks for file in root.glob("**/*")) * 512
    spare = 64 << 20
    _run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum_seed", "-E", "root_owner=0:0", "-d", root, path, f"{(size * 5 // 4 + spare) >> 20}M"])


def _run(words, **options):
    """A command's stdout."""
    words = [str(word) for word in words]
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    options = {"stdin": subprocess.DEVNULL, **options}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace", timeout=STEP_SECONDS, **options)
    except FileNotFoundError:
        raise Failure(f"{words[0]} is missing") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"`{' '.join(words)}` did not end within {STEP_SECONDS} s") from None
    if done.returncode != 0:
        raise Failure(f"`{' '.join(words)[:300]}` exited with {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
