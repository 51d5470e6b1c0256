"""SPDK's iscsi_tgt, built by whoever measures: one core that never sleeps, no huge pages, set up by JSON-RPC over its Unix socket."""

import contextlib
import json
import signal
import socket
import tempfile

import qa

MEMORY_MB = 1024  # what it takes from the kernel at its start, without huge pages
BLOCK = 512  # bytes
START_S = 60
_CORES = "0x1"
_PORTALS, _INITIATORS = 1, 1
_QUEUE_DEPTH = 64


class Rpc:
    """JSON-RPC 2.0 over a Unix socket, one request at a time."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(START_S)
        self.number = 0
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def call(self, method, **params):
        """One method; its result. qa.Failed for an error, or where the answer ends early."""
        self.number += 1
        request = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode())
        received = b""
        while True:
            data = self.socket.recv(1 << 16)
            qa.require(data, f"SPDK closed its socket in {method}")
            received += data
            try:
                answer = json.loads(received)
            except ValueError:
                continue  # not all of it yet
            break
        qa.require(answer.get("id") == self.number, f"SPDK answers {method} with another id: {answer}")
        qa.require("error" not in answer, f"SPDK refuses {method}: {answer.get('error')}")
        return answer.get("result")

    def close(self):
        """Closes the connection."""
        self.socket.close()


class Spdk:
    """One iscsi_tgt with one LUN."""

    def __init__(self, program, folder, iqn):
        self.program = program
        self.folder = folder
        self.iqn = iqn
        self.portal = f"127.0.0.1:{qa.free_port()}"
        self.home = tempfile.TemporaryDirectory(prefix="qa-spdk-")  # a socket's path must be short
        self.socket = f"{self.home.name}/rpc"
        self.child = None

    @property
    def pid(self):
        """Its pid."""
        return self.child.pid

    @property
    def url(self):
        """Where libiscsi finds the LUN."""
        return f"iscsi://{self.portal}/{self.iqn}/0"

    def start(self, kind, size):
        """Starts it with a null device (`null`) or one in memory (`ram`) of `size` bytes."""
        memory = MEMORY_MB + (size >> 20 if kind == "ram" else 0)
        argv = [self.program, "-m", _CORES, "--no-huge", "-s", memory, "-r", self.socket]
        with open(self.folder / "spdk.log", "ab") as log:
            self.child = qa.spawn(argv, stdout=log, stderr=log)
        rpc = qa.await_true("SPDK's socket answers", self._connect, START_S)
        with contextlib.closing(rpc):
            self._set_up(rpc, kind, size)

    def _set_up(self, rpc, kind, size):
        create = {"null": "bdev_null_create", "ram": "bdev_malloc_create"}[kind]
        rpc.call(create, name="disk", num_blocks=size // BLOCK, block_size=BLOCK)
        host, port = self.portal.split(":")
        rpc.call("iscsi_create_portal_group", tag=_PORTALS, portals=[{"host": host, "port": port}])
        rpc.call("iscsi_create_initiator_group", tag=_INITIATORS, initiators=["ANY"], netmasks=["ANY"])
        rpc.call(
            "iscsi_create_target_node",
            name=self.iqn,
            alias_name="bench",
            pg_ig_maps=[{"pg_tag": _PORTALS, "ig_tag": _INITIATORS}],
            luns=[{"bdev_name": "disk", "lun_id": 0}],
            queue_depth=_QUEUE_DEPTH,
            disable_chap=True,
        )

    def _connect(self):
        qa.require(self.child.poll() is None, f"{self.program} ended with {self.child.returncode}; see {self.folder}/spdk.log")
        try:
            return Rpc(self.socket)
        except OSError:
            return None

    def pause(self):
        """Stops it: what polls would take a core from the others."""
        self.child.send_signal(signal.SIGSTOP)

    def resume(self):
        """Lets it run on."""
        self.child.send_signal(signal.SIGCONT)

    def stop(self):
        """Ends it."""
        if self.child:
            self.resume()
            qa.end(self.child)
        self.home.cleanup()
