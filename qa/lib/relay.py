"""TCP relays: one that listens in, one that can be cut."""

import contextlib
import re
import socket
import threading


class Relay:
    """A TCP relay before a portal that keeps the beginning of each direction: what a login really agreed on can be read there."""

    KEPT = 1 << 16  # bytes kept of each direction; logins are far shorter

    def __init__(self, portal):
        self.there = portal.rsplit(":", 1)
        self.said = {"initiator": bytearray(), "target": bytearray()}
        self.ends = []
        self._listen(0)
        self.portal = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def _listen(self, port):
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((self.there[0], int(self.there[1])))
            except OSError:
                near.close()
                continue
            self.ends += [near, far]
            for source, sink, who in ((near, far, "initiator"), (far, near, "target")):
                threading.Thread(target=self._pump, args=(source, sink, who), daemon=True).start()

    def _pump(self, source, sink, who):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                kept = self.said[who]
                kept += data[: max(0, self.KEPT - len(kept))]
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def agreed(self, key):
        """The last value that the target gave for a login key, None if it gave none."""
        found = re.findall(rb"(?:^|\0)" + key.encode() + rb"=([^\0]*)", bytes(self.said["target"]))
        return found[-1].decode() if found else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


class Switch(Relay):
    """A relay that can be cut: its connections end, and new ones are refused until it is mended."""

    def cut(self):
        """Ends everything."""
        for end in (self.listener, *self.ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.ends = []

    def mend(self):
        """Listens again, where it did."""
        self._listen(int(self.portal.rsplit(":", 1)[1]))
