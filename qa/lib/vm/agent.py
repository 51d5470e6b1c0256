"""Commands in the guest, by QEMU's guest agent: a JSON dialogue over a pair of pipes.

They are held for one question only, so any number of commands may run in the guest at the same time.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import time

from ui import Failure

# To the agent, and from it, as QEMU names them.
LINE = ("agent.in", "agent.out")
# The agent answers at once; under emulation on a loaded machine "at once" has taken seconds.
ANSWER_SECONDS = 120
POLL_SECONDS = (0.05, 0.3)
# What a command's own limit is exceeded by before its guest is believed to be gone.
GRACE_SECONDS = 60
KILL_AFTER_SECONDS = 5


class Silent(Failure):
    """There is no guest that answers."""


def answers(folder):
    """Whether the guest's agent answers within a second."""
    try:
        with _dialogue(folder, 1):
            return True
    except Silent:
        return False


def run(folder, words, stdin=b"", seconds=None):
    """Runs a command as root in the guest, to its end; (status, stdout, stderr), the outputs as bytes.

    A command that a signal ended has status 128 and its number, one that did not end within `seconds` 124. Raises Silent where the guest is gone.
    """
    if seconds is not None:
        words = ["timeout", f"--kill-after={KILL_AFTER_SECONDS}", str(seconds), *words]
    request = {"path": words[0], "arg": list(words[1:]), "capture-output": True}
    if stdin:
        request["input-data"] = base64.b64encode(stdin).decode()
    pid = _ask(folder, "guest-exec", request)["pid"]
    end = None if seconds is None else time.monotonic() + seconds + GRACE_SECONDS
    pause = POLL_SECONDS[0]
    while True:
        state = _ask(folder, "guest-exec-status", {"pid": pid})
        if state["exited"]:
            return _status(state), *(base64.b64decode(state.get(key, "")) for key in ("out-data", "err-data"))
        if end is not None and time.monotonic() > end:
            raise Silent(f"the guest does not end `{' '.join(words)}`")
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS[1])


def _status(state):
    return 128 + state["signal"] if "signal" in state else state.get("exitcode", 128 + signal.SIGKILL)


def _ask(folder, command, arguments):
    with _dialogue(folder, ANSWER_SECONDS) as ask:
        answer = ask({"execute": command, "arguments": arguments})
    if "error" in answer:
        raise Failure(f"the guest's agent: {answer['error'].get('desc', answer['error'])}")
    return answer["return"]


@contextlib.contextmanager
def _dialogue(folder, seconds):
    """A function that asks and returns the answer; the one who has it is alone with the agent."""
    try:
        with _alone(folder), _Line(folder, time.monotonic() + seconds) as line:
            # What somebody before did not read, and half of a line that he sent, end with a byte that JSON never has.
            number = os.getpid() << 16 | int(time.monotonic() * 1000) & 0xFFFF
            line.send({"execute": "guest-sync-delimited", "arguments": {"id": number}}, b"\xff")
            while True:
                answer = line.receive()
                if b"\xff" in answer and json.loads(answer.rpartition(b"\xff")[2]).get("return") == number:
                    break

            def ask(request):
                line.send(request)
                return json.loads(line.receive())

            yield ask
    except OSError as error:
        raise Silent(f"the guest in {folder} does not answer: {error}", f"its console is {folder}/console") from None


@contextlib.contextmanager
def _alone(folder):
    with open(folder / "agent.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_line(folder):
    """The pipes to and from the agent, for QEMU. Pipes rather than a socket: to a socket without a client the agent listens in a loop, at a tenth of the guest's processor."""
    for name in LINE:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name, 0o600)


class _Line:
    """Lines to the agent and from it, until a time; OSError where nobody is there, or it has come."""

    def __init__(self, folder, end):
        self.end = end
        self.received = b""
        self.handles = []
        # Without a reader, QEMU, the first one fails.
        for name, flags in zip(LINE, (os.O_WRONLY, os.O_RDONLY)):
            self.handles.append(os.open(folder / name, flags | os.O_NONBLOCK | os.O_CLOEXEC))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            os.close(handle)

    def send(self, request, before=b""):
        data = memoryview(before + json.dumps(request).encode() + b"\n")
        while data:
            self._wait([], [self.handles[0]])
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.handles[0], data[: select.PIPE_BUF]) :]

    def receive(self):
        while b"\n" not in self.received:
            self._wait([self.handles[1]], [])
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.handles[1], 1 << 16)
                if not data:
                    raise ConnectionError("the machine has ended")
                self.received += data
        line, _, self.received = self.received.partition(b"\n")
        return line

    def _wait(self, readers, writers):
        if not any(select.select(readers, writers, [], max(0, self.end - time.monotonic()))):
            raise TimeoutError("it takes too long")
