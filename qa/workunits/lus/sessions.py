#!/usr/bin/python3 -Bs
"""Idle sessions while lusd is restarted: each of some QEMU initiators has written its mark, sleeps, and afterwards reads it and writes again without having noticed.

They are qemu-io, whose driver logs in again by itself. A daemon that is told to end does so in order although sessions are idle: the task that restarts it sees to that.

Environment: EXPECT, the daemons that must have been restarted meanwhile (qa/lib/disturb.py); DIGEST none (default) or header."""

import os
import pathlib
import select
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import disturb  # noqa: E402
import qa  # noqa: E402
import qemu  # noqa: E402

SESSIONS = 8
PROMPT = b"qemu-io> "
ANSWER_S = 60  # of one command, a new login included


class Idler:
    """One qemu-io with a session that stays open; its mark is in a block of its own."""

    def __init__(self, url, number):
        self.offset = number * 4096
        self.mark = number + 1
        pipe = subprocess.PIPE
        self.child = qa.spawn(["qemu-io", "--image-opts", qemu.options(url, qa.digest_wanted())], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
        self._answer("the start")

    def _answer(self, what):
        """What it prints up to its next prompt."""
        text, end = b"", time.monotonic() + ANSWER_S
        while not text.endswith(PROMPT):
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, end - time.monotonic()))
            qa.require(ready, f"qemu-io did not answer {what} within {ANSWER_S} s: {text}")
            data = os.read(self.child.stdout.fileno(), 4096)
            qa.require(data, f"qemu-io ended at {what}: {text}")
            text += data
        return text.removesuffix(PROMPT).decode()

    def do(self, command):
        """One command that must succeed."""
        self.child.stdin.write(f"{command}\n".encode())
        self.child.stdin.flush()
        text = self._answer(command)
        qa.require(" 4096/4096 bytes " in text and "failed" not in text.lower(), f"{command}: {text}")

    def write(self, shift=0):
        self.mark = (self.mark + shift) % 256
        self.do(f"write -f -P {self.mark} {self.offset} 4096")

    def read(self):
        self.do(f"read -P {self.mark} {self.offset} 4096")


def main():
    cluster = qa.Cluster.given()
    with cluster.target("sessions") as target:
        url = target.url(target.create("rbd/qa-sessions", "16M"))
        watch = disturb.Watch(cluster)
        idlers = [Idler(url, number) for number in range(SESSIONS)]
        for idler in idlers:
            idler.write()

        def alive():
            for idler in idlers:
                qa.require(idler.child.poll() is None, f"qemu-io ended with {idler.child.returncode} while it was idle")

        with watch.window(alive):
            qa.say(f"{SESSIONS} sessions are idle")
        restarted = watch.require_restarts()
        for _ in range(2):
            for idler in idlers:
                idler.read()
                idler.write(shift=100)
        for idler in idlers:
            idler.read()
            qa.end(idler.child)
        qa.say(f"restarted: {restarted}; all {SESSIONS} sessions read what they wrote, and write again")


qa.run_check(main)
