"""One Ceph cluster with LUS daemons in one folder: all on loopback, or each daemon on a host of its own (network.py).

    DIR/vstart.json      what was asked for (counts, ports, fsid); also the mark that DIR is ours
    DIR/ceph.conf        the only configuration that anything here reads
    DIR/keyring          client.admin; DIR/lus.a/keyring, DIR/osd.0/keyring ... each daemon's own
    DIR/run, DIR/log     sockets and process records; logs, and each daemon's stdout and stderr (NAME.out)
    DIR/mon.a, mgr.x, osd.N, lus.ID   the daemons' data

Ports of a cluster: base + 0 the monitor, + 10 to + 35 the portals of lus.a to lus.z, + 50 to + 99 OSDs and manager. They are the same on hosts.
"""

import base64
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import time
import uuid

import build
import network
import procs
import ui
from ui import Failure, progress

# A checkout's own cluster, where no --dir is given.
DEFAULT_DIR = pathlib.Path(__file__).resolve().parents[2] / "target" / "vstart"

PORT_STEP = 100
PORT_BASE = 13200
# Linux hands out ports from 32768 on to clients; a base must end below.
PORT_LAST_BASE = 32600
PORT_PORTALS = 10
PORT_OTHERS = 50
MAX_LUSDS = 26
# An OSD takes four ports of the fifty (public, cluster, two for heartbeats), the manager one.
MAX_OSDS = 12
# sun_path holds 108 bytes with its end; the longest socket below DIR is a librados socket of a daemon.
MAX_DIR = 107 - len("/run/client.lus.a.librados.99.asok")
# What a cluster writes before anybody uses it: the monitor's store and logs, and one OSD's BlueFS, log and first data.
DISK_BASE = 1 << 30
DISK_OSD = 1 << 30
START_SECONDS = 90
STOP_SECONDS = 30

CAPS_MON = "allow profile rbd, allow r, allow command 'config-key get' with key prefix 'lus/'"
CAPS_MGR = "profile rbd"

CEPH_CONF = """\
# Written by tools/vstart at each `up`. Everything of this cluster is below {dir}.
[global]
fsid = {fsid}
mon host = [v2:{address}:{mon_port}]
public addr = {address}
cluster addr = {address}
ms bind msgr1 = false
ms bind port min = {port_min}
ms bind port max = {port_max}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {dir}/run
log file = {dir}/log/$name.log
crash dir = {dir}/crash
osd crush chooseleaf type = 0
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd pool default size = {size}

[mon]
mon data = {dir}/mon.a
admin socket = {dir}/run/$name.asok
mon cluster log file = {dir}/log/cluster.log
auth allow insecure global id reclaim = false
mon allow pool delete = true
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
mon osd reporter subtree level = osd
mon osd min down reporters = 1
# A developer's disk is often nearly full; it is not this cluster's disk.
mon data avail warn = 1
mon data avail crit = 1

[mgr]
mgr data = {dir}/mgr.x
admin socket = {dir}/run/$name.asok
mgr initial modules =

[osd]
osd data = {dir}/osd.$id
admin socket = {dir}/run/$name.asok
osd objectstore = bluestore
bluestore block size = {osd_size}
osd memory target = 1073741824
osd class update on start = false

[client]
log file =

[client.admin]
keyring = {dir}/keyring
"""


class Cluster:
    """A cluster in a folder; `state` is None until the first `prepare`."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory).absolute()
        self.conf = self.dir / "ceph.conf"
        self.keyring = self.dir / "keyring"
        self._rados = None
        self.state = None
        with contextlib.suppress(FileNotFoundError):
            self.state = json.loads((self.dir / "vstart.json").read_text())

    # What there is

    def require(self):
        """Fails where no cluster was ever made in the folder."""
        if self.state is None:
            raise Failure(f"there is no cluster in {self.dir}", f"start one: tools/vstart up --dir {self.dir}")

    def names(self):
        """All daemons' names, in starting order."""
        return ["mon.a", "mgr.x", *self.osd_names(), *self.lusd_names()]

    def osd_names(self):
        """osd.0 and on."""
        return [f"osd.{i}" for i in range(self.state["osds"])]

    def lusd_names(self):
        """lus.a and on."""
        return [f"lus.{chr(ord('a') + i)}" for i in range(self.state["lusds"])]

    def process(self, name):
        """The process behind a daemon's name."""
        return procs.Process(name, self.dir / "run" / f"{name}.proc", self.dir / "log" / f"{name}.out")

    def log(self, name):
        """The daemon's log file."""
        return self.dir / "log" / (f"client.{name}.log" if name.startswith("lus.") else f"{name}.log")

    def portal(self, name):
        """ADDRESS:PORT at which a LUS daemon listens."""
        port = self.state["port_base"] + PORT_PORTALS + ord(name[4]) - ord("a")
        number = self.state.get("hosts")
        return f"{network.address('public', number, name[4]) if number else self.state['listen']}:{port}"

    def address(self):
        """Where monitor, manager and OSDs listen."""
        number = self.state.get("hosts")
        return network.address("ceph", number) if number else "127.0.0.1"

    def network(self):
        """The networks of the daemons' hosts, as they are now; None for a cluster on loopback."""
        if not (self.state or {}).get("hosts"):
            return None
        made = network.Network(self.dir, self.state["fsid"])
        made.find()
        return made

    def argv(self, name):
        """The command line with which a daemon was last started; None if it never was."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.dir / "run" / f"{name}.argv").read_text())

    def ceph_args(self):
        """CEPH_ARGS for Ceph's tools, beside CEPH_CONF."""
        return f"--name client.admin --keyring {self.keyring}"

    def exports(self):
        """The environment in which Ceph's tools, `lus` and the checks speak to this cluster, as text."""
        path = [str(build.bin_dir(self.state["profile"])), *os.environ.get("PATH", os.defpath).split(":")]
        return {
            "CEPH_CONF": str(self.conf),
            "CEPH_ARGS": self.ceph_args(),
            "PATH": ":".join(dict.fromkeys(path)),
            "LUS_PORTALS": " ".join(self.portal(name) for name in self.lusd_names()),
            "LUS_DIR": str(self.dir),
        }

    def stopped(self):
        """The names of daemons that do not run."""
        return [name for name in self.names() if not self.process(name).pid()]

    def is_default(self):
        """Whether commands find it without --dir."""
        return self.dir == DEFAULT_DIR

    def health(self):
        """Ceph's own word on itself; None where the monitor does not run."""
        if not self.process("mon.a").pid():
            return None
        return self.command(self.rados(), "health")["status"]

    def mon_port(self):
        """The monitor's port."""
        return self.state["port_base"]

    # Locking and state

    @contextlib.contextmanager
    def locked(self):
        """Only one vstart at a time changes the cluster in a folder."""
        self.dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.dir / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("cluster", f"waits for another vstart that works on {self.dir}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                self.state = json.loads((self.dir / "vstart.json").read_text())
            yield
        finally:
            os.close(handle)

    def save(self):
        """Writes the state; a crash leaves the old or the new one."""
        temporary = self.dir / "vstart.json.new"
        temporary.write_text(json.dumps(self.state, indent=4) + "\n")
        temporary.replace(self.dir / "vstart.json")

    # up

    def prepare(self, osds, lusds, port_base, osd_size, listen, pools, profile, conf=None, hosts=None):
        """Writes down what is wanted (None: as it was, or the default) and makes keys and configuration. Starts nothing.

        `conf` is {section: {option: value}}: options for ceph.conf beside and before those that vstart writes. `hosts` makes the networks on which each LUS daemon
        is a host of its own."""
        if len(str(self.dir)) > MAX_DIR:
            raise Failure(
                f"{self.dir} is too long: {len(str(self.dir))} characters; a Unix socket's path below it allows {MAX_DIR}",
                "give a shorter one, for example: --dir /tmp/lus",
            )
        if not re.fullmatch(r"[A-Za-z0-9_./+@~=-]+", str(self.dir)):
            raise Failure(
                f"{self.dir} has characters that Ceph's configuration cannot carry",
                "give a --dir of letters, digits and _ . / + @ ~ = -",
            )
        if self.state is None:
            strangers = [entry.name for entry in self.dir.iterdir() if entry.name != ".lock"]
            if strangers:
                raise Failure(f"{self.dir} is not empty and not a cluster of vstart's", "give another --dir, or empty it")
            self._check_disk(DISK_BASE, osds or 1)
            self.state = {"fsid": str(uuid.uuid4()), "osds": 0, "lusds": 0, "listen": "127.0.0.1", "pools": []}
            self.state["profile"] = "release"
            self.state["osd_size"] = osd_size or 16 << 30
            self._set_hosts(hosts)
            self.state["port_base"] = self._free_base(port_base or PORT_BASE)
            progress("cluster", f"new in {self.dir}, ports from {self.state['port_base']}")
            osds, lusds = osds or 1, 1 if lusds is None else lusds
        else:
            if self._set_hosts(hosts):
                self._move(self._free_base(port_base or self.state["port_base"]))
            elif port_base not in (None, self.state["port_base"]):
                self._move(self._free_base(port_base))
        if not self.process("mon.a").pid() and not _port_free(self.mon_port(), self.address()):
            self._move(self._free_base(self.state["port_base"] + PORT_STEP))
        if (osds or 0) > self.state["osds"] > 0:
            self._check_disk(0, osds - self.state["osds"])
        for key, wanted in (("osds", osds), ("lusds", lusds)):
            if wanted is not None and wanted < self.state[key]:
                progress("cluster", f"has {self.state[key]} {key} already; vstart adds, it does not take away")
            self.state[key] = max(wanted or 0, self.state[key])
        if osd_size and osd_size != self.state["osd_size"]:
            progress("cluster", f"OSDs that exist keep their size; new ones get {ui.size(osd_size)}")
            self.state["osd_size"] = osd_size
        self.state["profile"] = profile or self.state["profile"]
        if listen and self.state.get("hosts"):
            raise Failure("on hosts of their own the daemons listen at the addresses of those", "leave out --listen, or --hosts")
        if listen and listen != self.state["listen"]:
            self._require_stopped("the portals' address must change", self.lusd_names())
            self.state["listen"] = listen
        self.state["pools"] = sorted({*self.state["pools"], *pools})
        if conf is not None:
            self.state["conf"] = conf
        for folder in ("run", "log", "crash", "mon.a", "mgr.x"):
            (self.dir / folder).mkdir(exist_ok=True)
        self.save()
        self._write_conf()
        self._write_keyrings()

    def start_ceph(self):
        """Starts monitor, manager and OSDs that are missing, and makes what the cluster must have."""
        procs.raise_file_limit()
        missing = [name for name in self.names() if not name.startswith("lus.") and not self.process(name).pid()]
        mkfs = self._begin_osd_mkfs()
        fresh = self._start_mon()
        rados = self.rados()
        hurry = {"who": "mon", "name": "paxos_propose_interval"}
        if missing:
            # A start is a chain of map changes, and the monitor makes one a second. Only while starting: what is
            # measured on this cluster later must not profit.
            self.command(rados, "config set", **hurry, value="0.05")
        try:
            self._start_rest(rados, mkfs, fresh)
        finally:
            if missing:
                self.command(rados, "config rm", **hurry)

    def _start_rest(self, rados, mkfs, fresh):
        if fresh:
            # It would scrape this machine's disks and make a pool for what it finds.
            self.command(
                rados, "config set", who="mgr", name="mgr/devicehealth/enable_monitoring", value="false", force=True
            )
        self._start("mgr.x", ["ceph-mgr", "-f", "-i", "x", "-c", self.conf])
        self._import_keys(rados)
        osdmap = self.command(rados, "osd dump")
        pools = {pool["pool_name"] for pool in osdmap["pools"]}
        known = {osd["osd"] for osd in osdmap["osds"]}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            # Concurrent commands share one Paxos round; one after the other, each would wait for its own.
            jobs = [
                pool.submit(self.command, rados, "osd new", uuid=self._osd_uuid(i), id=i)
                for i in range(self.state["osds"])
                if i not in known
            ]
            for name, pg_num in [("rbd", 32), (".lus", 8), *((name, 16) for name in self.state["pools"])]:
                if name not in pools:
                    jobs.append(pool.submit(self._create_pool, rados, name, pg_num))
            for job in jobs:
                job.result()
            for i, name in enumerate(self.osd_names()):
                if name in mkfs:
                    self._end_osd_mkfs(name, mkfs[name])
                self._start(name, ["ceph-osd", "-f", "-i", str(i), "-c", self.conf])
            grown = [
                pool.submit(self.command, rados, "osd pool set", pool=entry["pool_name"], var="size", val=str(self._size()))
                for entry in osdmap["pools"]
                if entry["size"] < self._size()
            ]
            for job in grown:
                job.result()
        self._wait_osds(rados)
        self._init_pools(rados)
        self._wait_mgr(rados)

    def start_lusds(self, binary):
        """Starts the LUS daemons that are missing and waits until each accepts connections."""
        procs.raise_file_limit()
        started = []
        made = self.network()
        if made:
            made.add(name[4:] for name in self.lusd_names())
        for name in self.lusd_names():
            address, _, port = self.portal(name).rpartition(":")
            if self.process(name).pid():
                continue
            # On a host of its own there is nobody else.
            if not made and not _port_free(int(port), address):
                raise Failure(
                    f"{name} cannot listen at {self.portal(name)}: something else does, or the address is not this machine's",
                    "see `ss -ltnp`; end it, or start a cluster elsewhere: --dir and --port-base",
                )
            started.append((name, self._start(name, self.lusd_argv(name, binary))))
        for name, process in started:
            address, _, port = self.portal(name).rpartition(":")
            self._wait(f"{name} to listen at {self.portal(name)}", name, lambda: _connects(address, int(port)), process)
            progress(name, f"serves at {self.portal(name)}")

    def lusd_argv(self, name, binary):
        """The command line of one LUS daemon."""
        made = self.network()
        return [
            *(made.enter(name[4:]) if made else ()),
            binary,
            "-f",
            "-i",
            name[4:],
            "-c",
            self.conf,
            "--keyring",
            self.dir / name / "keyring",
            "--lus-portal",
            self.portal(name),
            "--log-file",
            self.log(name),
            "--pid-file",
            self.dir / "run" / f"{name}.pid",
        ]

    # down

    def stop(self, names=None):
        """Stops all daemons, or the named ones: LUS daemons first, the monitor last."""
        everything = [name for name in reversed(self.names()) if names is None or name in names]
        for kind in ("lus.", "osd.", "mgr.", "mon."):
            group = [self.process(name) for name in everything if name.startswith(kind)]
            running = [process for process in group if process.pid()]
            if running:
                progress(kind + "*" if len(running) > 1 else running[0].name, "stops")
            killed = procs.stop(group, STOP_SECONDS)
            for name in killed:
                progress(name, ui.colour(f"did not end within {STOP_SECONDS} s and was killed", "yellow"))
        if names is None and self.network():
            self.network().remove()

    def destroy(self):
        """Stops all and deletes the folder's content, which must be ours, and networks that are left of it even where the folder is gone."""
        if self.state is not None:
            self.stop()
        network.Network(self.dir).remove()
        self.disconnect()
        # The mark goes last: a destroy that was interrupted can be repeated.
        for entry in sorted(self.dir.iterdir(), key=lambda entry: entry.name in ("vstart.json", ".lock")):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        with contextlib.suppress(OSError):
            self.dir.rmdir()

    # Talking to the cluster

    def rados(self):
        """A librados client of client.admin; nothing but this cluster's files is read."""
        if self._rados is None:
            import rados  # Debian's python3-rados; only there once the packages are

            client = rados.Rados(
                conffile=str(self.conf),
                name="client.admin",
                conf={"keyring": str(self.keyring), "client_mount_timeout": "30", "rados_mon_op_timeout": "30"},
            )
            try:
                client.connect()
            except rados.Error as error:
                raise Failure(
                    f"the monitor does not answer: {error}", f"look at {self.log('mon.a')}"
                ) from error
            self._rados = client
        return self._rados

    def disconnect(self):
        """Ends the librados client."""
        if self._rados is not None:
            self._rados.shutdown()
            self._rados = None

    def command(self, rados, prefix, **arguments):
        """A monitor command; its JSON answer (None when empty)."""
        body = json.dumps({"prefix": prefix, "format": "json", **arguments})
        status, answer, text = rados.mon_command(body, b"")
        if status != 0:
            raise Failure(f"`ceph {prefix}` {arguments or ''}: {text or os.strerror(-status)}")
        return json.loads(answer) if answer.strip() else None

    def run(self, *argv):
        """One of Ceph's command-line tools, with this cluster's configuration and client.admin."""
        argv = [str(word) for word in argv]
        done = subprocess.run(
            [argv[0], "-c", self.conf, "-n", "client.admin", "-k", self.keyring, *argv[1:]],
            env=procs.clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
        )
        if done.returncode != 0:
            raise Failure(f"`{' '.join(argv)}`: {done.stdout.decode(errors='replace').strip()}")

    # Parts of `prepare`

    def _check_disk(self, base, osds):
        needed = base + osds * DISK_OSD
        available = shutil.disk_usage(self.dir).free
        if available < needed:
            raise Failure(
                f"{self.dir} has {ui.size(available)} free; {osds} new OSD(s) need {ui.size(needed)}",
                "free some space, or give a --dir on another disk",
            )

    def _free_base(self, first):
        """The first base from `first` on whose fixed ports are free; held against other vstarts until this one ends."""
        addresses = {"127.0.0.1", self.address()}
        for base in range(first, PORT_LAST_BASE + 1, PORT_STEP):
            # The name lives in the network namespace, as the ports do, and ends with this process.
            hold = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                hold.bind(f"\0lus-vstart-{base}")
            except OSError:
                hold.close()
                continue
            ports = [base, *range(base + PORT_PORTALS, base + PORT_PORTALS + MAX_LUSDS)]
            if all(_port_free(port, address) for port in ports for address in addresses):
                self._hold = hold
                return base
            hold.close()
        raise Failure(f"no free block of ports from {first} to {PORT_LAST_BASE}", "give a lower --port-base")

    def _set_hosts(self, wanted):
        """Makes the networks of the hosts if they are `wanted`, or the cluster has them already; whether its address is another one then."""
        number = self.state.get("hosts")
        if not (wanted or number):
            return False
        made = network.Network(self.dir, self.state["fsid"])
        if not number:
            network.require()
            self._require_stopped("to get hosts its address must change", self.names())
        elif made.find() != number:
            self._require_stopped("the networks of its hosts must be made anew", self.names())
        self.state["hosts"] = made.claim(number)
        return self.state["hosts"] != number

    def _move(self, base):
        """Another cluster took this one's ports while it was down, or its address is another one: takes others."""
        self._require_stopped("the ports must change", self.names())
        progress("cluster", f"moves to {self.address()}, ports from {base}")
        self.state["port_base"] = base
        if (self.dir / "mon.a" / "store.db").exists():
            monmap = self.dir / "monmap"
            self._tool("ceph-mon", "-i", "a", "-c", self.conf, "--extract-monmap", monmap)
            self._tool("monmaptool", "--rm", "a", monmap)
            self._tool("monmaptool", "--addv", "a", f"[v2:{self.address()}:{base}]", monmap)
            self.save()
            self._write_conf()
            self._tool("ceph-mon", "-i", "a", "-c", self.conf, "--inject-monmap", monmap)

    def _require_stopped(self, why, names):
        running = [name for name in names if self.process(name).pid()]
        if running:
            raise Failure(f"{why}, but {', '.join(running)} still run", f"first: tools/vstart down --dir {self.dir}")

    def _write_conf(self):
        base = self.state["port_base"]
        text = CEPH_CONF.format(
            dir=self.dir,
            fsid=self.state["fsid"],
            address=self.address(),
            mon_port=base,
            port_min=base + PORT_OTHERS,
            port_max=base + PORT_STEP - 1,
            size=self._size(),
            osd_size=self.state["osd_size"],
        )
        for name in self.lusd_names():
            text += f"\n[client.{name}]\nkeyring = {self.dir}/{name}/keyring\nlog file = {self.log(name)}\n"
        self.conf.write_text(_with_options(text, self.state.get("conf", {})))

    def _write_keyrings(self):
        self._write_key(self.keyring, "client.admin")
        self._write_key(self.dir / "mgr.x" / "keyring", "mgr.x")
        for name in self.osd_names():
            self._write_key(self.dir / name / "keyring", name)
        for name in self.lusd_names():
            self._write_key(self.dir / name / "keyring", f"client.{name}")

    def _write_key(self, path, entity):
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(_new_key(entity))
        temporary.replace(path)

    def _caps(self, entity):
        """Caps of an entity, by service."""
        if entity == "client.admin":
            return {service: "allow *" for service in ("mon", "osd", "mgr", "mds")}
        if entity == "mon.":
            return {"mon": "allow *"}
        if entity == "mgr.x":
            return {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"}
        if entity.startswith("osd."):
            return {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"}
        # A LUS daemon: images of its pools, the LUS pool, and what fencing needs (profile rbd has the blocklist).
        pools = ["rbd", *self.state["pools"]]
        osd = ", ".join([*(f"profile rbd pool={pool}" for pool in pools), "allow rwx pool=.lus"])
        return {"mon": CAPS_MON, "osd": osd, "mgr": CAPS_MGR}

    def _entities(self):
        """(entity, keyring) of everything that logs in."""
        yield "client.admin", self.keyring
        yield "mgr.x", self.dir / "mgr.x" / "keyring"
        for name in self.osd_names():
            yield name, self.dir / name / "keyring"
        for name in self.lusd_names():
            yield f"client.{name}", self.dir / name / "keyring"

    # Parts of `start_ceph`

    def _size(self):
        return min(3, self.state["osds"])

    def _osd_uuid(self, number):
        return str(uuid.uuid5(uuid.UUID(self.state["fsid"]), f"osd.{number}"))

    def _start(self, name, argv):
        """Starts a daemon unless it runs; its process if it was started."""
        process = self.process(name)
        if process.pid():
            return None
        progress(name, "starts")
        argv = [str(word) for word in argv]
        (self.dir / "run" / f"{name}.argv").write_text(json.dumps(argv) + "\n")
        process.start(argv)
        return process

    def _start_mon(self):
        """Makes the monitor's store where it is missing and starts it; True if it is a new one."""
        data = self.dir / "mon.a"
        fresh = not (data / "done").exists()
        if fresh:
            monmap, keys = self.dir / "monmap", self.dir / "mon.keyring"
            monmap.unlink(missing_ok=True)
            # ceph-mon makes a store in an empty folder only, and keeps its own key there.
            shutil.rmtree(data)
            data.mkdir()
            self._tool("monmaptool", "--create", "--fsid", self.state["fsid"], "--enable-all-features", monmap)
            self._tool("monmaptool", "--addv", "a", f"[v2:{self.address()}:{self.mon_port()}]", monmap)
            # The monitor imports all of these, so that no start waits for a round of `auth add` commands.
            with open(os.open(keys, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
                file.write(_new_key("mon.") + _caps_lines(self._caps("mon.")))
                for entity, keyring in self._entities():
                    file.write(keyring.read_text() + _caps_lines(self._caps(entity)))
            self._tool("ceph-mon", "--mkfs", "-i", "a", "-c", self.conf, "--monmap", monmap, "--keyring", keys)
            keys.unlink()
            (data / "done").touch()
        process = self._start("mon.a", ["ceph-mon", "-f", "-i", "a", "-c", self.conf])
        if process:
            self._wait("mon.a to listen", "mon.a", lambda: _connects(self.address(), self.mon_port()), process)
        return fresh

    def _import_keys(self, rados):
        """Adds entities that the monitor does not know yet, and corrects caps."""
        known = {entry["entity"]: entry for entry in self.command(rados, "auth ls")["auth_dump"]}
        for entity, keyring in self._entities():
            caps = [word for pair in self._caps(entity).items() for word in pair]
            key = keyring.read_text().split("key = ")[1].strip()
            if entity not in known:
                self._add_key(rados, entity, keyring, caps)
            elif known[entity]["key"] != key:
                raise Failure(
                    f"{keyring} and the monitor disagree about the key of {entity}", "tools/vstart destroy, then up"
                )
            elif known[entity]["caps"] != self._caps(entity) and entity.startswith("client.lus."):
                self.command(rados, "auth caps", entity=entity, caps=caps)

    def _add_key(self, rados, entity, keyring, caps):
        body = json.dumps({"prefix": "auth add", "entity": entity, "caps": caps})
        status, _, text = rados.mon_command(body, keyring.read_bytes())
        if status != 0:
            raise Failure(f"`ceph auth add {entity}`: {text}")

    def _create_pool(self, rados, name, pg_num):
        progress("pool", f"creates {name}")
        self.command(
            rados,
            "osd pool create",
            pool=name,
            pg_num=pg_num,
            pgp_num=pg_num,
            size=self._size(),
            autoscale_mode="off",
            yes_i_really_mean_it=True,
        )

    def _begin_osd_mkfs(self):
        """Starts making the stores of OSDs that have none, all at once: {name: child process}."""
        children = {}
        for number, name in enumerate(self.osd_names()):
            data = self.dir / name
            if (data / "done").exists() or self.process(name).pid():
                continue
            for entry in data.iterdir():
                if entry.name != "keyring":
                    entry.unlink()
            progress(name, f"makes its store: a sparse file of {ui.size(self.state['osd_size'])}")
            children[name] = subprocess.Popen(
                # fmt: off
                ["ceph-osd", "--mkfs", "-i", str(number), "-c", self.conf, "--osd-uuid", self._osd_uuid(number),
                 "--no-mon-config"],
                # fmt: on
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=open(self.dir / "log" / f"{name}.out", "ab"),
                env=procs.clean_environment(),
            )
        return children

    def _end_osd_mkfs(self, name, child):
        if child.wait(START_SECONDS) != 0:
            raise Failure(
                f"{name}: ceph-osd --mkfs failed:\n" + "\n".join(ui.tail(self.dir / "log" / f"{name}.out", 10)),
                f"look at {self.log(name)}",
            )
        (self.dir / name / "done").touch()

    def _wait_osds(self, rados):
        """Waits until the OSD map shows each OSD up, as the very process that runs."""
        waiting = {int(name[4:]): self.process(name) for name in self.osd_names()}

        def all_up():
            for osd in self.command(rados, "osd dump")["osds"]:
                process = waiting.get(osd["osd"])
                # A messenger's nonce is its process id: an OSD that died may still be shown as up.
                nonces = {address["nonce"] for address in osd["public_addrs"]["addrvec"]}
                if process and osd["up"] and process.pid() in nonces:
                    del waiting[osd["osd"]]
            for process in waiting.values():
                self._require_alive(process)
            return not waiting

        self._wait("the OSDs to be up", "osd", all_up)

    def _wait_mgr(self, rados):
        def available():
            mgrmap = self.command(rados, "mgr dump")
            self._require_alive(self.process("mgr.x"))
            return mgrmap["available"] and mgrmap["active_name"] == "x"

        self._wait("the manager to be active", "mgr.x", available)

    def _init_pools(self, rados):
        """Gives the pools their applications; `rbd pool init` waits for the placement groups, too."""
        pools = {pool["pool_name"]: pool for pool in self.command(rados, "osd dump")["pools"]}
        if not pools[".lus"]["application_metadata"]:
            self.command(rados, "osd pool application enable", pool=".lus", app="lus", yes_i_really_mean_it=True)
        for name in ["rbd", *self.state["pools"]]:
            if not pools[name]["application_metadata"]:
                self.run("rbd", "pool", "init", name)

    def _tool(self, *argv):
        argv = [str(word) for word in argv]
        try:
            done = subprocess.run(
                argv,
                env=procs.clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=START_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"`{' '.join(argv)}` takes longer than {START_SECONDS} s") from None
        if done.returncode != 0:
            text = "\n".join(done.stdout.decode(errors="replace").splitlines()[-10:])
            raise Failure(f"`{' '.join(argv)}` failed:\n{text}", f"logs are in {self.dir}/log")

    def _require_alive(self, process):
        if process.pid():
            return
        raise Failure(
            f"{process.name} has ended; its last words:\n" + "\n".join(self.last_words(process.name, 15)),
            f"see {self.log(process.name)}, then: tools/vstart up --dir {self.dir}",
        )

    def last_words(self, name, lines):
        """The end of what a daemon printed, else of what it logged."""
        return ui.tail(self.dir / "log" / f"{name}.out", lines) or ui.tail(self.log(name), lines)

    def _wait(self, what, name, condition, process=None):
        end = time.monotonic() + START_SECONDS
        while not condition():
            if process and process.child.poll() is not None:
                self._require_alive(process)
            if time.monotonic() > end:
                raise Failure(
                    f"waited {START_SECONDS} s for {what}", f"see the logs in {self.dir}/log ({name}), then repeat `up`"
                )
            time.sleep(0.05)


def _with_options(text, conf):
    """A configuration file with options of {section: {option: value}} in place of those it has under the same names."""
    lines = text.splitlines()
    for section, options in conf.items():
        options = {_option_name(name): value for name, value in options.items()}
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"]
        begin = lines.index(f"[{section}]") + 1
        end = next((i for i in range(begin, len(lines)) if lines[i].startswith("[")), len(lines))
        kept = [line for line in lines[begin:end] if _option_name(line.partition("=")[0]) not in options]
        lines[begin:end] = [*(f"{name} = {value}" for name, value in options.items()), *kept]
    return "\n".join(lines) + "\n"


def _option_name(text):
    """Ceph takes `mon-data`, `mon data` and `mon_data` for the same."""
    return re.sub(r"[-_ ]+", "_", text.strip())


def _new_key(entity):
    """A keyring section with a fresh key: type 1 (AES), time of creation, length, secret."""
    secret = os.urandom(16)
    key = base64.b64encode(struct.pack("<hIIh", 1, int(time.time()), 0, len(secret)) + secret).decode()
    return f"[{entity}]\n\tkey = {key}\n"


def _caps_lines(caps):
    return "".join(f'\tcaps {service} = "{text}"\n' for service, text in caps.items())


def _port_free(port, address="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.strip("[]"), port))
            return True
        except OSError:
            return False


def _connects(address, port):
    try:
        socket.create_connection((address.strip("[]"), port), 1).close()
        return True
    except OSError:
        return False
