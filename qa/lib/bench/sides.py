"""What is measured beside each other: lusd, tgt, SPDK, and librbd without any target between."""

import contextlib
import errno
import os
import pathlib
import subprocess

import qa
from tgt import Tgt

from bench.rows import SIZE
from bench.spdk import Spdk

NULL_SIZE = 1 << 40  # tgt's null device has this size and no other
_LUSD_START_S = 30
_TGT_END_S = 5
_WATCH_S = 45  # an image that a client left open has its watch for 30 s
# One librbd for all who use it: these are what lusd sets (lusd/ceph/src/options.rs; lus_data_client_threads is 1). Without the cache a write that was
# acknowledged is on the OSDs, for everybody; one thread each is what costs least for an operation. So the limit is that of the same librbd.
LIBRBD = {"rbd_cache": "false", "librados_thread_count": "1", "ms_async_op_threads": "1"}
# What nobody may have to gain a figure with: Ceph's own defaults, but for the cache, which would acknowledge what is not on the OSDs.
LIBRBD_AS_SHIPPED = {"rbd_cache": "false"}

# What lusd takes of fio's login, for tgt, which as shipped takes less (R2T before each write, data in pieces of 8 KiB). `agreed` reads back what came of it.
_TGT_LOGIN = {
    "HeaderDigest": "None",  # else tgt takes CRC32C from whoever offers it, in whatever order
    "InitialR2T": "No",
    "MaxRecvDataSegmentLength": 256 << 10,
    "FirstBurstLength": 256 << 10,
    "MaxBurstLength": 1 << 20,
}


class EqualTgt(Tgt):
    """A tgt that agrees at a login to what lusd agrees to."""

    def start(self):
        """Starts it with all its LUNs."""
        super().start()
        for name, value in _TGT_LOGIN.items():
            self._admin("--mode", "target", "--op", "update", "--tid", "1", "--name", name, "--value", str(value))

    def stop(self):
        """Ends it in order: an image that was not closed cannot be removed for half a minute."""
        if self.child and self.child.poll() is None:
            qa.run(["tgtadm", "--lld", "iscsi", "--mode", "target", "--op", "delete", "--force", "--tid", "1"], env=self.env, check=False)
            qa.run(["tgtadm", "--lld", "iscsi", "--mode", "system", "--op", "delete"], env=self.env, check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(_TGT_END_S)
        super().stop()


class Side:
    """One side of a backend's rows: its name, its process, and where the load finds it, a URL for iSCSI or POOL/IMAGE."""

    polls = False  # whether it uses a whole core whatever it does

    def __init__(self, name, pid=None, url=None, image=None, env=None):
        self.name, self.pid, self.url, self.image, self.env = name, pid, url, image, env

    @property
    def portal(self):
        """ADDRESS:PORT, None without iSCSI."""
        return self.url.split("/")[2] if self.url else None

    def resume(self):
        """Before a measurement."""

    def pause(self):
        """After a measurement."""


class SpdkSide(Side):
    """SPDK runs only while it is measured."""

    polls = True

    def __init__(self, name, spdk):
        super().__init__(name, spdk.pid, spdk.url)
        self.resume, self.pause = spdk.resume, spdk.pause


class Bench:
    """What the sides are made from: the cluster (None: none is needed), a folder for files, SPDK's program."""

    def __init__(self, cluster, folder, spdk=None, librbd=None):
        self.cluster, self.folder, self.spdk, self.librbd_options = cluster, pathlib.Path(folder), spdk, librbd or LIBRBD
        self.conf = _librbd_conf(cluster, self.folder, self.librbd_options) if cluster else None

    @contextlib.contextmanager
    def sides(self, backend, names):
        """The sides of a backend, in the order of `names`, each with its disk full of data; they end with the block."""
        with contextlib.ExitStack() as stack:
            made = [stack.enter_context(_MAKERS[_kind(name)](self, name, backend)) for name in names]
            for side in made:
                if side.url:
                    qa.run([qa.client("firstwrite"), _LUSD_START_S, side.url])
                    if backend == "ram":
                        qa.fio(side.url, "--rw=write", "--bs=256k", "--iodepth=8", f"--size={SIZE}")
                # What was written last lies in no cache of an OSD; a first reader must not pay for the others.
                if backend == "rbd":
                    self._pass("read", _image(side.name))
            yield made

    @contextlib.contextmanager
    def lusd(self, name, backend):
        """The cluster's daemon with one LU."""
        daemons = self.cluster.daemons()
        qa.require(len(daemons) == 1, f"the bench needs a cluster with one LUS daemon, this one has {len(daemons)}: the LU may be placed on any")
        with self.cluster.target("bench") as target, self._image(name, backend):
            try:
                if backend == "rbd":
                    self.cluster.lus("lu", "add", _image(name))
                    lun = target.map(_image(name))
                else:
                    lun = target.create(f"{backend}:qa-bench", f"{({'null': NULL_SIZE, 'ram': SIZE}[backend]) >> 20}M")
                yield Side(name, daemons[0].pid, target.url(lun, portal=daemons[0].portal))
            finally:
                target.remove()  # before its image goes

    @contextlib.contextmanager
    def tgt(self, name, backend):
        """A tgt of its own with one LUN."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        tgt = EqualTgt(folder, iqn=f"{qa.IQN}:{name}")
        with _shm_file(name, SIZE if backend == "ram" else qa.MIB) as file, self._image(name, backend):
            if backend == "null":
                lun = tgt.unit("--bstype", "null", "--backing-store", file)
            elif backend == "ram":
                lun = tgt.unit("--backing-store", file)
            else:
                lun = tgt.unit("--bstype", "rbd", "--backing-store", _image(name), "--bsopts", f"conf={self.conf};id=admin")
            try:
                tgt.start()
                yield Side(name, tgt.pid, tgt.url(lun))
            finally:
                tgt.stop()

    @contextlib.contextmanager
    def librbd(self, name, backend):
        """An image and nothing before it; the rows of other backends have no such side."""
        with self._image(name, backend):
            yield Side(name, image=_image(name), env={**self.cluster.env, "CEPH_CONF": str(self.conf)})

    @contextlib.contextmanager
    def spdk_side(self, name, backend):
        """A null or memory device of SPDK."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        spdk = Spdk(self.spdk, folder, f"{qa.IQN}:{name}")
        try:
            spdk.start(backend, {"null": NULL_SIZE, "ram": SIZE}[backend])
            yield SpdkSide(name, spdk)
        finally:
            spdk.stop()

    @contextlib.contextmanager
    def _image(self, name, backend):
        """For rows on RBD: a new image of the side, written full."""
        if backend != "rbd":
            yield
            return
        image = _image(name)
        self._remove(image)
        self.cluster.rbd("create", image, "--size", f"{SIZE >> 20}M")
        self._pass("write", image)
        try:
            yield
        finally:
            self._remove(image)

    def _remove(self, image):
        """Removes an image, if there is one; whoever left it open is waited for."""
        gone = lambda: self.cluster.rbd("rm", "--no-progress", image, check=False).returncode in (0, errno.ENOENT)  # noqa: E731
        qa.await_true(f"{image} is removed", gone, _WATCH_S, pause=1)

    def _pass(self, kind, image):
        """Reads or writes an image from its beginning to its end."""
        self.cluster.rbd("bench", "--io-type", kind, "--io-size", "4M", "--io-threads", "4", "--io-total", f"{SIZE >> 20}M", "--io-pattern", "seq", image)


_MAKERS = {"lusd": Bench.lusd, "tgt": Bench.tgt, "librbd": Bench.librbd, "spdk": Bench.spdk_side}
_BACKENDS = {"lusd": ("null", "ram", "rbd"), "tgt": ("null", "ram", "rbd"), "librbd": ("rbd",), "spdk": ("null", "ram")}
SIDES = tuple(_MAKERS)


def _kind(name):
    return name.partition("-")[0]


def known(name):
    """Whether a side has this name: one of SIDES, or a second tgt (`tgt-2`), which shows how far ratios are to be trusted."""
    return name in SIDES or name == "tgt-2"


def of_backend(backend, names):
    """Those of `names` that a backend's rows have."""
    return [name for name in names if backend in _BACKENDS[_kind(name)]]


def _image(name):
    return f"rbd/qa-bench-{name}"


def _librbd_conf(cluster, folder, options):
    """The cluster's configuration with `options` for librbd, for those who are not lusd; proved by Ceph's own reader."""
    text = pathlib.Path(cluster.env["CEPH_CONF"]).read_text()
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    path = folder / "ceph.conf"
    path.write_text(f"{text}\n[client.admin]\n{lines}")
    for name, value in options.items():
        found = qa.run(["ceph-conf", "-c", path, "-n", "client.admin", "--show-config-value", name], env={**os.environ, "CEPH_ARGS": ""}).stdout.strip()
        qa.require(found == value, f"{path}: {name} is {found}, not {value}")
    keyring = qa.run(["ceph-conf", "-c", path, "-n", "client.admin", "--show-config-value", "keyring"], env={**os.environ, "CEPH_ARGS": ""}).stdout.strip()
    qa.require(pathlib.Path(keyring).exists(), f"{path}: client.admin has no keyring {keyring}")
    return path


@contextlib.contextmanager
def _shm_file(name, size):
    """A sparse file in memory."""
    path = pathlib.Path(f"/dev/shm/lus-qa-bench-{name}")
    with open(path, "wb") as file:
        file.truncate(size)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
