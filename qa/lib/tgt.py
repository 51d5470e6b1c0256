"""tgt, the kernel-less target of Debian."""

import os
import pathlib
import tempfile

import qa


class Tgt:
    """tgt, the kernel-less target of Debian: what clients are proved on, and what lusd is measured against."""

    def __init__(self, folder, iqn=f"{qa.IQN}:tgt"):
        self.folder = pathlib.Path(folder)
        self.iqn = iqn
        self.portal = f"127.0.0.1:{qa.free_port()}"
        # Each instance has its control socket in a folder of its own, with a path that is short enough for one.
        self.home = tempfile.TemporaryDirectory(prefix="qa-tgt-")
        self.env = {**os.environ, "TGT_IPC_SOCKET": f"{self.home.name}/socket"}
        self.units = []
        self.child = None

    @property
    def pid(self):
        """The pid of tgtd."""
        return self.child.pid

    def unit(self, *options):
        """One more LUN, by tgtadm's options (`--backing-store PATH`, `--bstype null ...`); returns its number."""
        self.units.append(options)
        if self.child:
            self._admin("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(len(self.units)), *options)
        return len(self.units)

    def start(self):
        """Starts it with all its LUNs."""
        with open(self.folder / "tgtd.log", "ab") as log:
            # It ignores SIGTERM while it has targets.
            self.child = qa.spawn(["tgtd", "-f", "--iscsi", f"portal={self.portal}"], patience=0, stdout=log, stderr=log, env=self.env)
        qa.await_true("tgtd answers", lambda: qa.port_answers(self.portal), 10)
        self._admin("--mode", "target", "--op", "new", "--tid", "1", "-T", self.iqn)
        # As shipped it refuses digests; with this it takes what the initiator prefers.
        self._admin("--mode", "target", "--op", "update", "--tid", "1", "--name", "HeaderDigest", "--value", "None,CRC32C")
        for number, options in enumerate(self.units, 1):
            self._admin("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(number), *options)
        self._admin("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")

    def _admin(self, *words):
        qa.run(["tgtadm", "--lld", "iscsi", *words], env=self.env)

    def kill(self):
        """SIGKILL, and its end awaited."""
        self.child.kill()
        self.child.wait()

    def url(self, lun, digest=False):
        """Where libiscsi finds a LUN."""
        return f"iscsi://{self.portal}/{self.iqn}/{lun}" + ("?header_digest=crc32c" if digest else "")

    def stop(self):
        """Ends it."""
        if self.child:
            qa.end(self.child)
