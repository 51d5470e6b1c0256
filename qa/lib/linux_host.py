"""A Linux host with disks through dm-multipath, whichever machine that is: what tasks ask of it. What it does itself is in multipath/host.sh.

The machine is anything with `run(words, stdin, seconds)`: it runs a command as root there, with these bytes as its input, and returns what it printed; an exit
status that is not 0, and no end within `seconds`, raise `Broken` with the last words. `qa/tasks/lus_multipath.py` has the one that is a virtual machine.
"""

import json
import pathlib
import re
import time

HERE = pathlib.Path(__file__).resolve().parent
HOSTS = HERE.parents[1] / "doc" / "hosts"
SCRIPT = HERE / "multipath" / "host.sh"
# The settings that hosts are told to use: these very files are tried.
SETTINGS = (HOSTS / "multipath-lus.conf", HOSTS / "iscsid-lus.conf")
# In memory: what was written must be known where no disk answers.
FOLDER = "/run/lus-qa"
# Of one command. These are for an emulated host on a machine that does ten things at a time: all of it takes a hundredth of them elsewhere.
COMMAND_SECONDS = 300
LOGIN_SECONDS = 400
# Passes end when their I/O does.
STOP_SECONDS = 600
POLL_SECONDS = 1.0
# What prio alua makes of the target port groups' states.
PRIORITY = {"owner": 50, "other": 1}
NS_PER_MS = 1_000_000


class Broken(Exception):
    """The host saw what it must not, or does not answer."""


class Path:
    """One path to a disk, as the host has it."""

    def __init__(self, line):
        lun, self.portal, self.device, self.map, self.state, self.checker, priority, *times = line.split()
        self.lun = int(lun)
        self.priority = int(priority)
        # Of the session: NOP interval, NOP timeout, how long a lost one keeps its commands.
        self.times_s = tuple(map(int, times))

    def __str__(self):
        return f"LUN {self.lun} by {self.portal}: {self.device} of {self.map} {self.state} {self.checker} priority {self.priority}"


class LinuxHost:
    """The host, with the settings that LUS ships."""

    def __init__(self, machine, say):
        self.machine, self.say = machine, say
        # LUN -> what it is called below /dev/mapper.
        self.maps = {}
        self._counted = 0
        self.times_s = tuple(_setting(name) for name in ("noop_out_interval", "noop_out_timeout", "fast_io_fail_tmo"))

    def _do(self, *words, seconds=COMMAND_SECONDS):
        return self.machine.run([f"{FOLDER}/host.sh", *map(str, words)], b"", seconds)

    def install(self):
        """Its script, and the settings."""
        self.machine.run(["mkdir", "-p", FOLDER], b"", COMMAND_SECONDS)
        for path in (SCRIPT, *SETTINGS):
            self.machine.run(["bash", "-c", f"cat >{FOLDER}/{path.name} && chmod 755 {FOLDER}/{path.name}"], path.read_bytes(), COMMAND_SECONDS)
        self._do("install", *(f"{FOLDER}/{path.name}" for path in SETTINGS))

    def login(self, iqn, portal):
        """A session with every portal of a target."""
        self._do("login", iqn, portal, seconds=LOGIN_SECONDS)
        self.iqn = iqn

    def logout(self):
        """The end of the sessions."""
        self._do("logout", self.iqn, seconds=LOGIN_SECONDS)

    def paths(self):
        """Every path that there is."""
        return [Path(line) for line in self._do("paths", self.iqn).splitlines()]

    def wait_for_paths(self, owners, portals, seconds):
        """Waits until each LUN of `owners()` {LUN: its owner's portals} has an active path by each of the portals, in one map, of the right priority; returns the seconds."""
        begun = time.monotonic()
        while True:
            amiss = self._amiss(self.paths(), owners(), portals)
            if not amiss:
                return time.monotonic() - begun
            if time.monotonic() - begun > seconds:
                raise Broken(f"the host's paths are not right after {seconds} s: {'; '.join(amiss)}")
            time.sleep(POLL_SECONDS)

    def _amiss(self, paths, owners, portals):
        """What is not as it must be, a sentence each."""
        amiss = []
        for lun, own in owners.items():
            mine = [path for path in paths if path.lun == lun]
            if sorted(path.portal for path in mine) != sorted(portals):
                amiss.append(f"LUN {lun} has paths by {[path.portal for path in mine]}")
            names = {path.map for path in mine}
            if len(names) != 1 or names & {"[none]", "[orphan]"}:
                amiss.append(f"LUN {lun} is in the maps {sorted(names)}")
            else:
                self.maps[lun] = names.pop()
            for path in mine:
                wanted = PRIORITY["owner" if path.portal in own else "other"]
                # A standby's checker says "ghost": no error, and not for I/O.
                if path.state != "active" or path.checker not in ("ready", "ghost") or path.priority != wanted:
                    amiss.append(f"{path} (must be {wanted})")
                if path.times_s != self.times_s:
                    amiss.append(f"{path}: its session's times are {path.times_s}, not {self.times_s}")
        if len(set(self.maps.values())) != len(self.maps):
            amiss.append(f"two LUNs share a map: {self.maps}")
        return amiss

    def prove(self, raw, files):
        """That `check` finds what it is for: damage is planted, and each kind must be found."""
        for what, lun in (("raw", raw), ("files", files)):
            self.say(f"planted: {self._do('plant', what, self.maps[lun], FOLDER, seconds=STOP_SECONDS).strip()}")
        # What damage brought into the kernel's log is no error of the run.
        self._do("dmesg")

    def begin(self, raw, files):
        """Starts fio on the map of one LUN and files on that of another."""
        self.loads = {"raw": self.maps[raw], "files": self.maps[files]}
        for what, name in self.loads.items():
            self._do("begin", what, name, FOLDER)

    def wait_for_passes(self, count, seconds):
        """Waits until each load has ended so many more passes; an error in one of them ends it."""
        before, end = self._passes(), time.monotonic() + seconds
        while any(number < before[what] + count for what, number in self._passes().items()):
            if time.monotonic() > end:
                raise Broken(f"the host's I/O does not go on: {before} passes, {seconds} s later {self._passes()}")
            time.sleep(POLL_SECONDS)

    def _passes(self):
        return {what: int(number) for what, number in (line.split() for line in self._do("passes", FOLDER).splitlines())}

    def require_silence(self, seconds):
        """That no load goes on: nothing else than what was silenced answers it."""
        time.sleep(seconds / 2)
        before = self._passes()
        time.sleep(seconds / 2)
        if self._passes() != before:
            raise Broken("I/O goes on, and nobody is there who could answer it")

    def stalls(self):
        """(of fio, of files): the longest time in ms of one operation of fio's, and from a new file to its sync, since the last call."""
        last = self._passes()["raw"]
        reports = self._read(*(f"{FOLDER}/raw.{number}.json" for number in range(self._counted + 1, last + 1)))
        self._counted = last
        files = self._read(f"{FOLDER}/files.stalls")
        self.machine.run(["truncate", "--size=0", f"{FOLDER}/files.stalls"], b"", COMMAND_SECONDS)
        return max(_longest(reports), default=0), max(map(int, files.split()), default=0)

    def _read(self, *paths):
        return self.machine.run(["cat", "/dev/null", *paths], b"", COMMAND_SECONDS)

    def end(self):
        """Ends the loads, and looks at all that they wrote."""
        done = self._passes()
        self._do("stop", FOLDER, seconds=STOP_SECONDS)
        for what, name in self.loads.items():
            self._do("check", what, name, FOLDER, seconds=STOP_SECONDS)
        errors = self._do("dmesg")
        if errors:
            raise Broken(f"the host's kernel reports errors: {errors}")
        return done


    def require_error(self, lun, silence, talk):
        """That an error does reach an application where nothing holds it back: without queueing, between `silence()` and `talk()`; it must be in the kernel's log."""
        name = self.maps[lun]
        silence()
        try:
            after = int(self._do("refused", name))
        finally:
            talk()
            self._do("queue", name)
        if not self._do("dmesg"):
            raise Broken("an I/O error of a map is not found in the kernel's log")
        self.say(f"without queueing a read fails {after} ms after the last path was cut, and the kernel's log has it")


def _setting(name):
    """The number that the shipped settings give to a name."""
    (value,) = re.findall(rf"^\s*(?:\S+\.)?{name}\s*=?\s*(\d+)$", "".join(path.read_text() for path in SETTINGS), re.M)
    return int(value)


def _longest(text):
    """The longest latency in ms of each of fio's reports, one behind the other in `text`."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        report, end = decoder.raw_decode(text, at)
        for job in report["jobs"]:
            if job["error"]:
                raise Broken(f"fio reports error {job['error']}")
            yield max(job[kind]["lat_ns"]["max"] for kind in ("read", "write")) // NS_PER_MS
        at = text.find("{", end)
