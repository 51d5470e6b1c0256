"""A Linux host in a virtual machine (qa/vm), as workunits use it: commands in it, and its open-iscsi with nodes, sessions and disks."""

import contextlib
import os
import pathlib
import re
import shlex
import tempfile

import qa

INITIATOR = "iqn.2026-11.io.lus.qa:linux-host"
# Of one command. The machine may be emulated, on one that does more than this.
COMMAND_SECONDS = 300
UP_SECONDS = 600
DISK_SECONDS = 90
# What iscsiadm(8) exits with.
AUTHENTICATION_FAILED = 24
# Lines of the guest's console that a failure shows.
CONSOLE_LINES = 12


class Guest:
    """The machine whose folder this is."""

    def __init__(self, folder):
        self.folder = folder

    def do(self, script, *, status=0):
        """Runs shell words as root and returns what they printed. The first that fails ends them, and another exit status than `status` is a failure."""
        code, said, _ = self.status(script)
        if code != status:
            told = "\n".join(self.console()[-CONSOLE_LINES:])
            raise qa.Failed(f"the guest's console:\n{told}\nin the guest: {script}\n{said}exit status {code}, not {status}")
        return said

    def status(self, script):
        """(exit status, what was said on both streams, that on stdout) of shell words."""
        words = ["bash", "-euo", "pipefail", "-c", script]
        done = qa.run([qa.QA / "vm", "exec", "--timeout", COMMAND_SECONDS, self.folder, *words], check=False, timeout=COMMAND_SECONDS + 150)
        return done.returncode, done.stdout + done.stderr, done.stdout

    def run(self, words, stdin, seconds):
        """A command with these bytes as its input: the machine as linux_host takes it."""
        done = qa.run([qa.QA / "vm", "exec", "--timeout", seconds, self.folder, *words], check=False, timeout=seconds + 150, stdin=stdin.decode())
        if done.returncode != 0:
            raise qa.Failed(f"`{shlex.join(words)}` in the guest ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def read(self, script):
        """What shell words printed on stdout alone."""
        code, said, out = self.status(script)
        qa.require(code == 0, f"in the guest: {script}\nexit status {code}\n{said}")
        return out

    def fails(self, script, *statuses):
        """What shell words said that must end with one of these statuses; without any, with another one than 0, and in time."""
        code, said, _ = self.status(script)
        qa.require(code in statuses if statuses else code not in (0, 124, 125), f"in the guest: {script}\nmust fail with {statuses or 'an error'}, and ends with {code}\n{said}")
        return said

    def console(self):
        """The lines that the guest's kernel has said."""
        return (self.folder / "console").read_text(errors="replace").splitlines()


@contextlib.contextmanager
def machine(*options):
    """A machine for the block; `options` are those of `qa/vm up`."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vm.", dir=os.environ.get("TESTDIR")))
    try:
        booted = qa.run([qa.QA / "vm", "up", *options, folder], timeout=UP_SECONDS)
        qa.say(booted.stderr.strip().splitlines()[-1].partition("vm")[2].strip())
        yield Guest(folder)
    finally:
        qa.run([qa.QA / "vm", "down", folder], check=False)


@contextlib.contextmanager
def initiator(*, multipath=False, ipv6=False):
    """A machine with the kernel's initiator, under a name of its own; with dm-multipath only where it is asked for."""
    with machine(*(["--ipv6"] if ipv6 else [])) as guest:
        # It reads its name when it starts.
        guest.do(f"echo InitiatorName={INITIATOR} >/etc/iscsi/initiatorname.iscsi; iscsiadm -k 0; iscsid")
        if not multipath:
            # It may be gone before it answers.
            guest.do("multipathd shutdown >/dev/null || true; while pgrep -x multipathd >/dev/null; do sleep 0.2; done")
        yield guest


class Node:
    """A target at one portal, by one of open-iscsi's interfaces: a record, and the sessions of it."""

    def __init__(self, guest, iqn, portal, iface="default"):
        self.guest, self.iqn, self.portal, self.iface = guest, iqn, portal, iface

    @property
    def _words(self):
        return f"iscsiadm -m node -T {self.iqn} -p {self.portal} -I {self.iface}"

    def discover(self, *others):
        """SendTargets, which makes the records of this interface and of the others, and of no more; what it listed."""
        return self.guest.do(f"iscsiadm -m discovery -t sendtargets -p {self.portal} {' '.join(f'-I {iface}' for iface in (self.iface, *others))}")

    def set(self, values):
        """Values of the record, by name."""
        self.guest.do("; ".join(f"{self._words} -o update -n {shlex.quote(name)} -v {shlex.quote(value)}" for name, value in values.items()))

    def login(self, status=0):
        """A session, with its disks; or the failure that iscsiadm tells by this status."""
        if status:
            self.guest.fails(f"{self._words} --login", status)
        else:
            self.guest.do(f"{self._words} --login && udevadm settle -t 100")

    def logout(self):
        """The end of the sessions of this record."""
        self.guest.do(f"{self._words} --logout")

    def disks(self, lun):
        """Devices of a LUN, one for each session of the interface with the portal, in the order of the sessions."""
        # Each session's folder has its number in its name, and below it its connections and devices.
        listed = self.guest.read(
            "cd /sys/class/iscsi_session; shopt -s nullglob; for s in session*; do c=($s/device/connection*/iscsi_connection/*);"
            " read -r i <$s/ifacename && read -r t <$s/targetname && read -r a <$c/persistent_address && read -r p <$c/persistent_port || continue;"
            f' case $a in *:*) a="[$a]";; esac; [ "$i $t $a:$p" = "{self.iface} {self.iqn} {self.portal}" ] || continue;'
            f" for d in $s/device/target*/*:{lun}/block/*; do echo ${{s#session}} ${{d##*/}}; done; done"
        )
        found = sorted((int(number), name) for number, name in re.findall(r"^(\d+) (\w+)$", listed, re.M))
        return [f"/dev/{name}" for _, name in found]

    def disk(self, lun=0):
        """The one device of a LUN; waited for."""
        return self.all_disks(1, lun)[0]

    def all_disks(self, count, lun=0):
        """As many devices of a LUN as there are to be; waited for."""
        return qa.await_true(f"{count} disks of LUN {lun}", lambda: len(found := self.disks(lun)) == count and found, DISK_SECONDS, 1)
