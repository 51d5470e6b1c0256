"""The virtual machine: QEMU without a display, with KVM where that works and emulated where it does not."""

import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import time

import ui
from ui import Failure, progress
from vm import CACHE, agent
from vm.image import NET, NET6, image
from vm.loader import KERNEL_OPTIONS

QEMU = "qemu-system-x86_64"
MONITOR = "monitor"
# Until everything in it is up: some 2 s with KVM, 7 s emulated, and more on a loaded machine.
BOOT_SECONDS = {"kvm": 25, "tcg": 400}
# An old processor with hardware CRC32C: to emulate a newer one takes longer and gives nothing.
PROCESSOR = {"kvm": "host", "tcg": "Nehalem"}
# The emulator would keep up to 1 GiB of translated code.
ACCELERATOR = {"kvm": "kvm", "tcg": "tcg,tb-size=192"}
QUIT_SECONDS = 10
POLL_SECONDS = 0.2
# <linux/kvm.h>
_KVM_CREATE_VM = 0xAE01
_KVM_CREATE_VCPU = 0xAE41
_KVM_FAILED = CACHE / "kvm-failed"


def up(folder, accelerator="auto", memory=768, disk=None, ipv6=False):
    """Starts a machine whose sockets and console are in `folder`, and returns when its initiator is ready; nothing where it runs already. `memory` in MiB.

    With `disk`, a name in QEMU's options (`driver=iscsi,portal=...`), it boots from that disk by its BIOS and the disk's boot loader, and what it writes stays there.

    Its network is QEMU's user network: connections that it makes to any address, those of the loopback included, are made by this machine.
    """
    if not shutil.which(QEMU):
        raise Failure(f"{QEMU} is missing", "apt-get install --no-install-recommends qemu-system-x86")
    folder.mkdir(parents=True, exist_ok=True)
    if agent.answers(folder):
        return
    down(folder)
    made = image()
    kinds = [accelerator] if accelerator != "auto" else ["kvm", "tcg"] if _kvm_may_work() else ["tcg"]
    for kind in kinds:
        begun = time.monotonic()
        try:
            _boot(folder, made, kind, memory, disk, ipv6)
            progress("vm", f"up after {time.monotonic() - begun:.1f} s ({kind})")
            return
        except Failure as failure:
            down(folder)
            if kind == kinds[-1]:
                raise
            _KVM_FAILED.write_text(_boot_id())
            progress("vm", f"{failure.what}: now without {kind}, and from now on")


def down(folder):
    """Ends the machine; nothing where there is none."""
    try:
        connection = _connected(folder)
    except OSError:
        return
    with connection, _process(connection) as process:
        if process is None:
            return
        with contextlib.suppress(OSError):
            connection.sendall(b"".join(json.dumps({"execute": word}).encode() for word in ("qmp_capabilities", "quit")))
        if not select.select([process], [], [], QUIT_SECONDS)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])
    for name in (MONITOR, *agent.LINE):
        (folder / name).unlink(missing_ok=True)


def _connected(folder):
    """A connection to QEMU's monitor; OSError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(QUIT_SECONDS)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        # A path of a socket must be short.
        connection.connect(f"/proc/self/fd/{handle}/{MONITOR}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(handle)
    return connection


@contextlib.contextmanager
def _process(connection):
    """A handle of the process that listens at the other end, which no other can take the place of; None where it ended meanwhile."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _boot(folder, made, kind, memory, disk, ipv6):
    agent.make_line(folder)
    with open(folder / "qemu.log", "wb") as log:
        child = subprocess.Popen(
            _words(made, kind, memory, disk, ipv6), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    end = time.monotonic() + BOOT_SECONDS[kind]
    while not agent.answers(folder):
        if child.poll() is not None:
            raise Failure(f"{QEMU} ended with {child.returncode}: {' '.join(ui.tail(folder / 'qemu.log', 3))}", f"the guest's console is {folder}/console")
        if time.monotonic() > end:
            child.kill()
            child.wait()
            last = " | ".join(ui.tail(folder / "console", 3))
            raise Failure(f"the guest is not ready after {BOOT_SECONDS[kind]} s; its last words: {last}", f"its console is {folder}/console")
        time.sleep(POLL_SECONDS)


def _words(made, kind, memory, disk, ipv6):
    six = f"ipv6-net={NET6}::/64,ipv6-host={NET6}::2,ipv6-dns={NET6}::3" if ipv6 else "ipv6=off"
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "pc", "-accel", ACCELERATOR[kind], "-cpu", PROCESSOR[kind], "-m", str(memory)),
        *(_boots_by_itself(disk) if disk else _is_booted(made)),
        *("-netdev", f"user,id=net,net={NET}.0/24,host={NET}.2,dns={NET}.3,{six}", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-chardev", "file,id=console,path=console", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-device", "virtio-rng-pci"),
        *("-chardev", "pipe,id=agent,path=agent", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-qmp", f"unix:{MONITOR},server=on,wait=off"),
    ]


def _is_booted(made):
    """The kernel from here; what is written to the disk goes with the machine."""
    return [
        *("-kernel", made / "vmlinux", "-initrd", made / "initrd", "-append", KERNEL_OPTIONS),
        *("-drive", f"if=none,id=root,format=raw,snapshot=on,file={str(made / 'root.img').replace(',', ',,')}", "-device", "virtio-blk-pci,drive=root"),
    ]


def _boots_by_itself(disk):
    """From the disk, by its boot loader; its errors are the guest's."""
    return ["-blockdev", f"{disk},node-name=root", "-device", "virtio-blk-pci,drive=root,bootindex=0,werror=report,rerror=report"]


def _kvm_may_work():
    """Whether a virtual processor can be made, and no machine failed with KVM since this one booted: where it is nested it may be there and no good."""
    if _KVM_FAILED.exists() and _KVM_FAILED.read_text() == _boot_id():
        return False
    with contextlib.suppress(OSError), _opened(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)) as device:
        with _opened(fcntl.ioctl(device, _KVM_CREATE_VM, 0)) as machine, _opened(fcntl.ioctl(machine, _KVM_CREATE_VCPU, 0)):
            return True
    return False


@contextlib.contextmanager
def _opened(handle):
    try:
        yield handle
    finally:
        os.close(handle)


def _boot_id():
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
