"""tools/vstart demo: proves that a disk is served, with an initiator that is not ours, and says how to attach it."""

import filecmp
import json
import os
import pathlib
import shutil
import subprocess
import time

import build
import procs
import ui
from ui import Failure, progress

TARGET = "iqn.2026-11.io.lus:demo"
LU = "rbd/demo"
LU_SIZE = "1G"
LU_BYTES = 1 << 30
RANDOM_BYTES = 64 << 20
# From the mapping of the LUN to a daemon that serves it: one notify and the opening of an image, with ample reserve.
SERVED_SECONDS = 30


def run(cluster, profile):
    """Makes target, LU and mapping where they are missing, writes and reads the disk, and prints how to use it."""
    demo = Demo(cluster, profile)
    demo.create()
    demo.await_lun()
    demo.write_and_compare()
    print(demo.instructions())


class Demo:
    """The demo on one cluster."""

    def __init__(self, cluster, profile):
        self.cluster = cluster
        self.lus = build.bin_dir(profile) / "lus"
        self.portal = cluster.portal(cluster.lusd_names()[0])
        self.folder = cluster.dir / "demo"
        self.environment = {
            **procs.clean_environment(),
            "CEPH_CONF": str(cluster.conf),
            "CEPH_ARGS": cluster.ceph_args(),
        }
        self.lun = None

    def create(self):
        """The admin command's four steps."""
        self._lus("target", "create", TARGET, "--open")
        self._lus("lu", "create", LU, LU_SIZE)
        self._lus("lun", "map", TARGET, LU)
        mapped = json.loads(self._output(self.lus, "lun", "ls", TARGET, "-f", "json"))
        self.lun = next(entry["lun"] for entry in mapped if entry["lu"] == LU)
        self.url = f"iscsi://{self.portal}/{TARGET}/{self.lun}"

    def await_lun(self):
        """Waits until the daemon serves the LUN."""
        end = time.monotonic() + SERVED_SECONDS
        while True:
            done = subprocess.run(
                ["qemu-img", "info", "--output=json", self.url],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.returncode == 0:
                size = json.loads(done.stdout)["virtual-size"]
                progress("demo", f"{self.url} is served: {ui.size(size)}")
                return
            if time.monotonic() > end:
                raise Failure(f"{self.url} is not served: {done.stderr.strip()}", "look at: tools/vstart logs lus.a")
            time.sleep(0.2)

    def write_and_compare(self):
        """Writes an ext4 image through the initiator, reads it back, and compares and checks what came back."""
        image, copy = self.folder / "ext4.img", self.folder / "copy.img"
        self._make_image(image)
        progress("demo", "writes the ext4 image with qemu-img, QEMU's initiator")
        self._output("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, self.url)
        progress("demo", "compares the disk with the image: qemu-img compare")
        self._output("qemu-img", "compare", "-f", "raw", "-F", "raw", image, self.url)
        progress("demo", "reads the whole disk back and checks its file system: e2fsck")
        copy.unlink(missing_ok=True)
        self._output("qemu-img", "convert", "-f", "raw", "-O", "raw", self.url, copy)
        if not filecmp.cmp(image, copy, shallow=False):
            raise Failure(f"{copy}, read back from {self.url}, differs from {image}", "this is a bug: keep both files")
        self._output("e2fsck", "-f", "-n", copy)
        copy.unlink()
        progress("demo", ui.colour("what was written is what is read, and the file system is clean", "green"))

    def instructions(self):
        """How to attach the disk, and how to stop."""
        address, _, port = self.portal.rpartition(":")
        vstart = "tools/vstart"
        where = "" if self.cluster.is_default() else f" --dir {self.cluster.dir}"
        reach = ""
        if address.startswith("127."):
            reach = f"""
The portal listens on the loopback, for this machine only. For other hosts: {vstart} down{where},
then {vstart} demo{where} --listen ADDRESS, with an address of this machine. The target lets anybody in.
"""
        return f"""
A disk is served.

    portal {self.portal}    target {TARGET}    LUN {self.lun}    image {LU}, {LU_SIZE}, ext4
{reach}
Linux (open-iscsi), as root:
    apt-get install open-iscsi
    iscsiadm -m discovery -t sendtargets -p {self.portal}
    iscsiadm -m node -T {TARGET} -p {self.portal} --login
    mount /dev/disk/by-path/ip-{self.portal}-iscsi-{TARGET}-lun-{self.lun} /mnt
    ... umount /mnt; iscsiadm -m node -T {TARGET} -p {self.portal} --logout

Windows, PowerShell as administrator:
    Set-Service MSiSCSI -StartupType Automatic; Start-Service MSiSCSI
    New-IscsiTargetPortal -TargetPortalAddress {address} -TargetPortalPortNumber {port}
    Connect-IscsiTarget -NodeAddress {TARGET}
    Get-Disk | Where-Object BusType -eq iSCSI

VMware ESXi (the adapter's name is in the list, such as vmhba64):
    esxcli iscsi software set --enabled=true
    esxcli iscsi adapter list
    esxcli iscsi adapter discovery sendtarget add --adapter=vmhba64 --address={address}:{port}
    esxcli storage core adapter rescan --adapter=vmhba64

The admin command and Ceph's own, in this shell:
    eval "$({vstart} env{where})"; lus status; lus lun ls {TARGET}; ceph -s

Log out every host first; the next demo writes the disk anew.
    stop:     {vstart} down{where}       (`up` brings it back with its data)
    delete:   {vstart} destroy{where}"""

    def _make_image(self, image):
        """An ext4 image with files in it, of the LU's size, without mounting anything; made once."""
        if image.exists() and image.stat().st_size == LU_BYTES:
            return
        progress("demo", "makes an ext4 image with some files")
        shutil.rmtree(self.folder, ignore_errors=True)
        files = self.folder / "files"
        files.mkdir(parents=True)
        for path in [*build.ROOT.glob("*.md"), build.ROOT / "LICENSE"]:
            shutil.copy(path, files)
        if (build.ROOT / "doc").is_dir():
            shutil.copytree(build.ROOT / "doc", files / "doc")
        with open(files / "random", "wb") as file:
            for _ in range(RANDOM_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        unfinished = pathlib.Path(f"{image}.new")
        self._output("mke2fs", "-q", "-F", "-t", "ext4", "-L", "lus-demo", "-d", files, unfinished, LU_SIZE)
        unfinished.rename(image)
        shutil.rmtree(files)

    def _lus(self, *words):
        progress("demo", "lus " + " ".join(words))
        self._output(self.lus, *words)

    def _output(self, *argv):
        """stdout of a command; fails with what it printed."""
        argv = [str(word) for word in argv]
        environment = {**self.environment, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"}
        done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            text = (done.stdout + done.stderr).strip()
            raise Failure(f"`{' '.join(argv)}` exited with {done.returncode}:\n{text}", "look at: tools/vstart logs")
        return done.stdout
