"""Rounds of the client stale (qa/clients/stale.c): a daemon stands still, or is cut off from Ceph, with writes inside; newer data is written by another; the old one goes on.

What the daemons are is the caller's: lusd (qa/tasks/lus_stale_write.py), or two tgtd on the same files, which know nothing of each other (qa/clients/prove). Standard
library only, so that both can import it.
"""

import time

from kill_rounds import FINE, FOUND, LOSSES, Broken, report

MARK_S = 90  # the client waits 60 s for its disks
POLL_S = 0.1
LOAD_S = (0.2, 1.5)  # of writes before the strike
INSIDE_S = 0.3  # for writes to come as far as they can
SENT_S = 0.3  # for writes to be in the socket of a daemon that stands still

# What befalls the daemon, by its steps: those of a gateway, and the words for the client. Then newer data is written, and the last steps are taken.
KINDS = {
    "socket": (["stop", "write", SENT_S], ["resume"]),
    "inside": (["load", LOAD_S, "stop", "still"], ["resume"]),
    "librbd": (["cut", "write", INSIDE_S, "stop"], ["heal", "resume"]),
    "cut": (["load", LOAD_S, "cut", "still"], ["heal"]),
}
CLIENT_WORDS = ("write", "load", "still")


class Rounds:
    """Rounds of one kind.

    `host` runs the client, as in path_rounds; `host.records()` are the lines of the log `host.log` that begin with M. `gateway` has:

        begin()         (portal, [LUNs]) of the daemon that is to stand still
        stop() resume() cut() heal()    what befalls it
        other()         waits until another one serves these LUNs; its portal
        settle()        waits until the old daemon has gone on, and longer than anything that it had could come
        images()        files with the content of the LUNs, from behind the gateway
        fenced()        raises Broken where the old daemon's clients may still write
    """

    def __init__(self, host, gateway, iqn, log, say):
        self.host, self.gateway, self.iqn, self.log, self.say = host, gateway, iqn, log, say
        self.luns = []

    def run(self, kind, count, dice, depth):
        """COUNT rounds, none of which may find an old write; the number of writes that were inside."""
        inside = 0
        for number in range(1, count + 1):
            held, found = self.round(kind, dice, depth, f"{number}", prove=number == 1)
            wrong = [f"{where}: {self._amiss(counts)}" for where, counts in found.items() if self._amiss(counts)]
            if wrong:
                raise Broken(f"round {number}: an old write came after newer data: {'; '.join(wrong)}")
            if held["late_good"] or not held["ended"]:
                raise Broken(f"round {number}: the old session was answered with GOOD {held['late_good']} times after its writes were given up, and ended with {held['ended']}")
            self.gateway.fenced()
            self.say(f"round {number}: {held['inside']} writes were inside; newer data stands in all {held['blocks']} blocks; {held['ended']}")
            inside += held["inside"]
        self.say(f"{count} times {kind}: {inside} writes were inside, newer data stands")
        return inside

    def round(self, kind, dice, depth, name, prove=False):
        """One round: the client's report, and {where: findings}. With `prove` an old write is planted first, and must be found in both places."""
        steps, last = KINDS[kind]
        portal, self.luns = self.gateway.begin()
        self.host.log = f"{self.log}.{name}"
        held = self.host.begin(self._words("hold", portal, "--depth", str(depth)))
        try:
            self._await(held, "ready")
            for step in steps:
                self._step(held, step, dice)
            other = self.gateway.other()
            self._client("renew", other)
            if prove:
                self._prove(other)
            self._tell(held, "late")
            for step in last:
                getattr(self.gateway, step)()
            self.gateway.settle()
        finally:
            held.tell("end")
        status, out, err = held.result()
        if status != FINE:
            raise Broken(f"the client ended with {status}\n{out}{err}")
        said = report(out)
        if not said["inside"]:
            raise Broken(f"no write was inside: the round shows nothing: {said}")
        return said, self._findings(self.gateway.other())

    def _prove(self, portal):
        """An old write that is planted is found."""
        self._client("plant", portal)
        for where, found in self._findings(portal).items():
            if found["undone"] != 1:
                raise Broken(f"an old write that was planted was reported {where} as {found}")
        self._client("renew", portal)
        self.say("the client finds an old write: planted once, found through the gateway and in the image")

    def _findings(self, portal):
        """What is amiss, as a host sees it, and behind the gateway."""
        return {
            "through the new daemon": report(self._run(self._words("check", portal), FINE, FOUND)),
            "in the image": report(self._run(["image", ",".join(map(str, self.gateway.images())), self.host.log], FINE, FOUND)),
        }

    def _step(self, held, step, dice):
        if isinstance(step, tuple):
            time.sleep(dice.uniform(*step))
        elif isinstance(step, float):
            time.sleep(step)
        elif step in CLIENT_WORDS:
            self._tell(held, step)
        else:
            getattr(self.gateway, step)()

    def _tell(self, held, word):
        held.tell(word)
        self._await(held, word)

    def _await(self, held, word):
        """Waits until the client has done what it was told."""
        end = time.monotonic() + MARK_S
        while f"M {word}" not in self.host.records():
            if held.ended():
                raise Broken(f"the client ended with {held.result()}")
            if time.monotonic() > end:
                raise Broken(f"the client did not do '{word}' within {MARK_S} s")
            time.sleep(POLL_S)

    def _client(self, command, portal):
        self._run(self._words(command, portal), FINE)

    def _run(self, words, *fine):
        status, out, err = self.host.run(words).result()
        if status not in fine:
            raise Broken(f"stale {' '.join(words)} exited with {status}\n{out}{err}".rstrip())
        return out

    def _words(self, command, portal, *words):
        return [command, portal, self.iqn, ",".join(str(lun) for lun in self.luns), self.host.log, *words]

    @staticmethod
    def _amiss(counts):
        return {kind: counts[kind] for kind in LOSSES if counts[kind]}
