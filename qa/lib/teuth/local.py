"""This machine as teuthology's remotes: an object with the face of paramiko's SSH client that runs commands here.

teuthology's own Remote, RemoteProcess and DaemonState work on top of it unchanged, so a task sees the same contract as on a lab.
"""

import contextlib
import os
import shutil
import socket

import gevent
import gevent.subprocess as subprocess
from teuthology.orchestra.cluster import Cluster
from teuthology.orchestra.remote import Remote

# Each remote has an address of its own, all of them the loopback's: two daemons on two "machines" may have the same port.
ADDRESS = "127.0.0.{number}"
USER = "root"


class _Transport:
    """A connection that is always there."""

    def __init__(self, address):
        self._address = address

    def getpeername(self):
        return self._address, 22

    def is_active(self):
        return True

    def set_keepalive(self, _seconds):
        pass


class _Channel:
    """How a command ended, as paramiko says it."""

    def __init__(self, child):
        self._child = child

    def recv_exit_status(self):
        """Waits; a command that a signal ended has no exit status, which is -1."""
        return max(self._child.wait(), -1)

    def exit_status_ready(self):
        return self._child.poll() is not None

    def shutdown_write(self):
        _close(self._child.stdin)


class _Input:
    """stdin: takes text and bytes, and hands them over at once."""

    def __init__(self, pipe, channel):
        self._pipe = pipe
        self.channel = channel

    def write(self, data):
        try:
            self._pipe.write(data.encode() if isinstance(data, str) else data)
            self._pipe.flush()
        except BrokenPipeError:
            # Over SSH the data would be in flight, and nobody would learn that it was not read.
            pass

    def flush(self):
        pass

    def close(self):
        _close(self._pipe)


class _Output:
    """stdout or stderr; `timeout` seconds without a byte raise socket.timeout, as with paramiko."""

    def __init__(self, pipe, channel, timeout):
        self._pipe = pipe
        self._timeout = timeout
        self.channel = channel

    def _limited(self, method, *arguments):
        with gevent.Timeout(self._timeout, socket.timeout(f"no output for {self._timeout} s")):
            return method(*arguments)

    def read(self, size=-1):
        return self._limited(self._pipe.read, size)

    def readline(self):
        return self._limited(self._pipe.readline)

    def __iter__(self):
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def close(self):
        self._pipe.close()


class _Files:
    """The part of SFTP that teuthology uses."""

    def put(self, local, remote):
        shutil.copyfile(local, remote)

    def get(self, remote, local):
        shutil.copyfile(remote, local)

    def open(self, path, mode="r"):
        return open(path, mode)

    def stat(self, path):
        return os.stat(path)

    def close(self):
        pass


class LocalClient:
    """Runs commands by bash in an environment and a home of their own."""

    def __init__(self, address, env, home):
        self._env = env
        self._home = home
        self._transport = _Transport(address)

    def get_transport(self):
        return self._transport

    def exec_command(self, command, timeout=None):
        """(stdin, stdout, stderr) of a command that has begun."""
        child = subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._home,
            env=self._env,
            start_new_session=True,
        )
        channel = _Channel(child)
        return _Input(child.stdin, channel), _Output(child.stdout, channel, timeout), _Output(child.stderr, channel, timeout)

    def open_sftp(self):
        return _Files()

    def close(self):
        pass


def cluster_of(roles, env, home):
    """teuthology's Cluster for the roles of a job: each inner list is a remote, and each remote is this machine."""
    clients = [LocalClient(ADDRESS.format(number=number), env, home) for number in range(1, len(roles) + 1)]
    remotes = [Remote(f"{USER}@local{number}", ssh=client) for number, client in enumerate(clients, 1)]
    return Cluster(remotes=list(zip(remotes, roles, strict=True)))


def _close(pipe):
    with contextlib.suppress(BrokenPipeError):
        pipe.close()
