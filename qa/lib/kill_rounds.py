"""Rounds of the durability client (qa/clients/durability.c): write, kill the gateway, start it, compare.

Where commands run and how the gateway is killed and started is the caller's: teuthology's remotes and lusd (qa/tasks/lus_durability.py), or processes of this
machine and tgt (qa/clients/prove). Standard library only, so that both can import it.
"""

import json
import random
import time

BLOCKS = 16384  # of 4 KiB: 64 MiB, small enough that blocks are rewritten often
SIZE_MIB = 128  # of the disk
WARM_UP_S = 1
KILL_AFTER_S = (0.3, 3.0)  # after the first record of a run of the client
FIRST_RECORD_S = 90  # the client retries its login for 60 s
POLL_S = 0.05
# Exit codes (qa/clients/common.h).
FINE, FOUND, LOST = 0, 1, 3
LOSSES = ("lost", "undone", "late", "torn", "misplaced")


class Broken(Exception):
    """A write did not survive, or the rounds could not be carried out."""


class Rounds:
    """Kills, with one log.

    `host.run(words)` runs the client with these words to its end, `host.begin(words)` without waiting; both give an object with `ended()` and with `result()`, which
    waits: (status, stdout, stderr). `host.log_size()` is the log's size in bytes. `gateway.kill()` and `gateway.start()` return when it is done. `say(text)` takes
    a line of progress.
    """

    def __init__(self, host, gateway, url, log, say):
        self.host, self.gateway, self.url, self.log, self.say = host, gateway, url, log, say

    def run(self, count, seed):
        """Proves that losses are found, then kills COUNT times; raises Broken."""
        dice = random.Random(seed)
        self.prove()
        acknowledged = in_flight = 0
        for number in range(1, count + 1):
            wrote = self.round(number, dice)
            acknowledged += wrote["acknowledged"]
            in_flight += wrote["in_flight"]
        if in_flight == 0:
            raise Broken("no kill ever hit a command in flight: the rounds show nothing")
        self.say(f"{count} kills (seed {seed}): {acknowledged} writes acknowledged, none lost, undone, late or torn")

    def prove(self):
        """Each kind of loss, planted past the log, must be found, once and by its name."""
        self._client("write", "--seconds", WARM_UP_S, "--blocks", BLOCKS)
        for seed, kind in enumerate(LOSSES, 1):
            block = self._client("plant", kind, "--seed", seed).strip()
            found = report(self._client("check", expect=FOUND))
            if found[kind] != 1:
                raise Broken(f"a planted block that is {kind} was reported as {found}")
            self._client("mend", "--block", block)
        self._client("check")
        self.say(f"the client finds losses: {len(LOSSES)} planted, {len(LOSSES)} found")

    def round(self, number, dice):
        """Write, kill, start, compare; the report of the write."""
        before = self.host.log_size()
        writer = self.host.begin(self._words("write", "--blocks", BLOCKS, "--seed", dice.getrandbits(32)))
        self._await_record(writer, before)
        moment = dice.uniform(*KILL_AFTER_S)
        time.sleep(moment)
        self.gateway.kill()
        status, out, err = writer.result()
        if status != LOST:
            raise Broken(f"round {number}: the client ended with {status}, not {LOST}\n{out}{err}")
        wrote = report(out)
        if wrote["acknowledged"] == 0:
            raise Broken(f"round {number}: nothing was acknowledged before the kill")
        self.gateway.start()
        found = report(self._client("check"))
        losses = ", ".join(f"{kind} {found[kind]}" for kind in LOSSES)
        self.say(
            f"round {number}: killed after {moment:.2f} s: {wrote['acknowledged']} writes acknowledged, {wrote['in_flight']} commands in flight; "
            f"{found['checked_blocks']} blocks right, {found['decided_blocks']} of them with open writes; {losses}"
        )
        return wrote

    def _await_record(self, writer, before):
        end = time.monotonic() + FIRST_RECORD_S
        while self.host.log_size() == before:
            if writer.ended():
                raise Broken(f"the client cannot write: it ended with {writer.result()}")
            if time.monotonic() > end:
                raise Broken(f"the client wrote nothing within {FIRST_RECORD_S} s")
            time.sleep(POLL_S)

    def _words(self, command, *words):
        return [command, self.url, self.log, *(str(word) for word in words)]

    def _client(self, command, *words, expect=FINE):
        """Runs the client to its end; its stdout."""
        words = self._words(command, *words)
        status, out, err = self.host.run(words).result()
        if status != expect:
            raise Broken(f"durability {' '.join(map(str, words))} exited with {status}, not {expect}\n{out}{err}".rstrip())
        return out


def report(out):
    """The client's report, its last line."""
    return json.loads(out.strip().splitlines()[-1])
