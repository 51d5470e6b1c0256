"""Rounds of the multipath client (qa/clients/multipath.c): while it writes, what serves its disks is disturbed; nothing may be lost, and no error may reach it.

Where commands run, and what the disturbances are, is the caller's: teuthology's remotes and lusd (qa/tasks/lus_failover.py), or processes of this machine and tgt
behind relays (qa/clients/prove). Standard library only, so that both can import it.
"""

import statistics
import time

from kill_rounds import FINE, FOUND, LOSSES, LOST, Broken, report

WARM_UP_S = 1
BEGIN_S = 90  # the client waits 60 s for its disks
SETTLE_S = (1.0, 2.5)  # of undisturbed writing before each round
POLL_S = 0.1
MARK_S = 10
AMISS = (*LOSSES, "errors", "unanswered", "late_answers")


class Rounds:
    """Disturbances, with one log. `limits` are options of the client for every writer.

    `host.run(words)` runs the client with these words to its end, `host.begin(words)` without waiting; both give an object with `ended()`, `tell(line)` and
    `result()`, which waits: (status, stdout, stderr). `host.records()` are the lines of the log that begin with M or V. `disks` are the words for the client that say
    where: portals, target, LUNs. `say(text)` takes a line of progress.
    """

    def __init__(self, host, disks, log, say, limits=()):
        self.host, self.disks, self.log, self.say, self.limits = host, disks, log, say, limits

    def prove(self, *options):
        """Each kind of loss, planted past the log, must be found, once and by its name."""
        self._client("write", "--seconds", WARM_UP_S, *options)
        for seed, kind in enumerate(LOSSES, 1):
            block = self._client("plant", kind, "--seed", seed).strip()
            found = report(self._client("check", expect=FOUND))
            if found[kind] != 1:
                raise Broken(f"a planted block that is {kind} was reported as {found}")
            self._client("mend", "--block", block)
        self._client("check")
        self.say(f"the client finds losses: {len(LOSSES)} planted, {len(LOSSES)} found")

    def run(self, disturbance, count, dice, *options):
        """Disturbs COUNT times while the client writes, compares, and returns the client's report.

        `disturbance.strike(mark)` calls `mark()` right before it does it, and returns the LUNs that must go on by another path: none, where they go on by the same.
        `disturbance.patience` is the number of seconds for that. `disturbance.heal()` makes all as it was. `disturbance.name` is what befalls the daemon.
        """
        run = f"{dice.getrandbits(32):08x}"
        writer = self.host.begin(self._words("write", *options, "--seed", dice.getrandbits(32), *self.limits))
        try:
            moved = self._disturb(writer, run, disturbance, count, dice)
        finally:
            writer.tell("end")
        status, out, err = writer.result()
        wrote = report(out) if status in (FINE, FOUND, LOST) else None
        if status != FINE or any(wrote[kind] for kind in AMISS):
            raise Broken(f"the client ended with {status}\n{out}{err}")
        self._say_times(wrote, moved)
        found = report(self._client("check"))
        self.say(
            f"{count} times {disturbance.name}: {wrote['acknowledged']} writes acknowledged, retries {wrote['retries']}; {found['checked_blocks']} blocks right, none "
            f"{', '.join(LOSSES)}"
        )
        return wrote

    def _disturb(self, writer, run, disturbance, count, dice):
        """The rounds; {mark: LUNs that went on by another path}."""
        self._mark(writer, f"{run}-begin", BEGIN_S)
        moved = {}
        for number in range(1, count + 1):
            time.sleep(dice.uniform(*SETTLE_S))
            name = f"{run}-{number}"
            luns = disturbance.strike(lambda name=name: self._mark(writer, name))
            self._await(f"round {number}: LUNs {luns} go on by another path", writer, lambda: set(luns) <= self._seen(name), disturbance.patience)
            moved[name] = luns
            self._mark(writer, f"{name}-healed")
            disturbance.heal()
        time.sleep(SETTLE_S[0])
        return moved

    def _say_times(self, wrote, moved):
        """What became of each disturbance; times are figures, not limits."""
        every, stalls = [], []
        for number, (name, luns) in enumerate(moved.items(), 1):
            firsts = [wrote["marks"][name][str(lun)] for lun in luns]
            stall, healing = (max(wrote["mark_stalls"][mark].values()) for mark in (name, f"{name}-healed"))
            every += firsts
            stalls.append(stall)
            other = f"{len(luns)} LUNs, first GOOD by another path: {_range(firsts)}; " if luns else ""
            self.say(f"round {number}: {other}longest stall {stall} ms, while it healed {healing} ms")
        if every:
            self.say(f"first GOOD by another path, all rounds and LUNs: {_range(every)}")
        self.say(f"longest stall of each round: {_range(stalls)}")

    def _seen(self, name):
        """LUNs that had a GOOD by another path since a mark."""
        words = [line.split() for line in self.host.records()]
        return {int(word[2]) for word in words if word[0] == "V" and word[1] == name}

    def _mark(self, writer, name, seconds=MARK_S):
        """Marks, and waits until the client has it."""
        writer.tell(f"mark {name}")
        self._await(f"the client takes the mark {name}", writer, lambda: f"M {name}" in self.host.records(), seconds)

    def _await(self, what, writer, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            if writer.ended():
                raise Broken(f"{what}: the client ended with {writer.result()}")
            if time.monotonic() > end:
                raise Broken(f"{what}: not within {seconds} s")
            time.sleep(POLL_S)

    def _words(self, command, *words):
        return [command, *self.disks, self.log, *(str(word) for word in words)]

    def _client(self, command, *words, expect=FINE):
        """Runs the client to its end; its stdout."""
        words = self._words(command, *words)
        status, out, err = self.host.run(words).result()
        if status != expect:
            raise Broken(f"multipath {' '.join(map(str, words))} exited with {status}, not {expect}\n{out}{err}".rstrip())
        return out


def _range(times):
    return f"median {statistics.median(times):.0f} ms, max {max(times):.0f} ms"
