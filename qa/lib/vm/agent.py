"""Commands in the guest, by QEMU's guest agent: a JSON dialogue over a Unix socket.

A connection is held for one question only, so any number of commands may run in the guest at the same time. Sockets are named from within their folder: a path to
them must be short.
"""

import base64
import contextlib
import fcntl
import json
import os
import signal
import socket
import time

from ui import Failure

SOCKET = "agent"
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
        with _alone(folder), connected(folder, SOCKET, seconds) as connection, connection.makefile("rwb") as file:
            # What somebody before did not read, and half of a line that he sent, end with a byte that JSON never has.
            number = os.getpid() << 16 | int(time.monotonic() * 1000) & 0xFFFF
            _send(file, {"execute": "guest-sync-delimited", "arguments": {"id": number}}, b"\xff")
            while True:
                line = _line(file)
                if b"\xff" in line and json.loads(line.rpartition(b"\xff")[2]).get("return") == number:
                    break

            def ask(request):
                _send(file, request)
                return json.loads(_line(file))

            yield ask
    except (OSError, EOFError) as error:
        raise Silent(f"the guest in {folder} does not answer: {error}", f"its console is {folder}/console") from None


@contextlib.contextmanager
def _alone(folder):
    """QEMU takes one connection at a time, in the order in which they came."""
    with open(folder / "agent.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _send(file, request, before=b""):
    file.write(before + json.dumps(request).encode() + b"\n")
    file.flush()


def _line(file):
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed")
    return line


def connected(folder, name, seconds):
    """A connection to a socket of QEMU's in the folder; OSError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        # However long the folder's path is.
        connection.connect(f"/proc/self/fd/{handle}/{name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(handle)
    return connection
