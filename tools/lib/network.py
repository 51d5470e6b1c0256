"""Network namespaces in which LUS daemons run as on hosts of their own, with two networks that can be cut.

A cluster has a number N, and by it its subnets (of 198.18.0.0/15, which RFC 2544 sets apart for tests) and names:

    lusN-ceph    bridge 198.18.N.1/24: monitor, manager and OSDs, in the root namespace
    lusN-public  bridge 198.19.N.1/24: iSCSI hosts, in the root namespace
    lusN-cut     bridge that is down and leads nowhere
    lusN-ID      namespace of lus.ID, with the interfaces `ceph` (198.18.N.10 for lus.a, 11 for lus.b ...) and `public` (198.19.N.10 ...)
    lusNID-ceph, lusNID-public  their ends in the root namespace, which are ports of the bridges

A cut moves such an end to lusN-cut: frames vanish in both directions, while every interface keeps its carrier. Neighbours are permanent, so nobody asks for an address
in vain, which would end connections with "no route to host": they hang, as behind a router that is gone.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

import ui
from ui import Failure

NETWORKS = {"ceph": "198.18", "public": "198.19"}
CUTS = (*NETWORKS, "both")
NUMBERS = range(1, 255)
IDS = "abcdefghijklmnopqrstuvwxyz"
_NAMESPACES = pathlib.Path("/run/netns")
# The hosts' part of an address: this machine's own, and that of lus.a.
_ROOT, _FIRST = 1, 10
_MARK = "lus-vstart"
_SECONDS = 30


def address(network, number, id_=None):
    """The address of a daemon's host in a network of cluster `number`; without an id that of this machine."""
    return f"{NETWORKS[network]}.{number}.{_host(id_)}"


class Network:
    """The networks of the cluster `fsid` in the folder `directory`. `number` is None until `claim`, or while there are none.

    What exists is asked of the kernel each time: the bridges carry fsid and folder. Every method raises Failure where `ip` fails.
    """

    def __init__(self, directory, fsid=None):
        self.dir = pathlib.Path(directory)
        self.fsid = fsid
        self.number = None

    def find(self):
        """The cluster's number; None if it has no networks."""
        if not shutil.which("ip"):
            return None
        marks = {int(found[1]): link["ifalias"] for link in _links() if (found := re.fullmatch(r"lus(\d+)-ceph", link["ifname"])) and "ifalias" in link}
        ours = [number for number, mark in marks.items() if self._is_mine(mark)]
        self.number = min(ours, default=None)
        return self.number

    def claim(self, wanted=None):
        """Makes the bridges unless there are some; returns the number: `wanted` if it is free, else the first that is."""
        require()
        if self.find() is not None and f"lus{self.number}-cut" in self._finished():
            return self.number
        self.remove()
        taken = _numbers_in_use()
        for number in (*((wanted,) if wanted else ()), *NUMBERS):
            # Who makes the bridge has the number, so that two at the same time never share one.
            if number not in taken and _try(f"link add lus{number}-ceph address {_mac('ceph', number)} type bridge"):
                self.number = number
                self._make_bridges()
                return number
        raise Failure("no free number for one more cluster with hosts", "see `ip link`, then: tools/vstart destroy those that are of no use")

    def _make_bridges(self):
        number = self.number
        lines = [
            # First of all, so that a vstart that is killed leaves what the next one finds.
            f"link set lus{number}-ceph alias {_MARK}:{self.fsid}:{self.dir}",
            f"link add lus{number}-public address {_mac('public', number)} type bridge",
            f"link add lus{number}-cut type bridge",
        ]
        for network in NETWORKS:
            lines += [f"addr add {address(network, number)}/24 dev lus{number}-{network}", f"link set lus{number}-{network} up"]
        _batch([*lines, f"link set lus{number}-cut alias {_MARK}"])

    def _finished(self):
        """Links with the mark that is the last thing which is made of the bridges, and of a host."""
        return {link["ifname"] for link in _links() if link.get("ifalias") == _MARK}

    def ids(self):
        """The daemons that have a host, by their ids."""
        made = (re.fullmatch(rf"lus{self.number}([a-z])-public", name) for name in self._finished())
        return sorted(found[1] for found in made if found)

    def add(self, ids):
        """Makes the hosts of these daemons where they are missing, or half made."""
        there = self.ids()
        for id_ in ids:
            if id_ not in there:
                self._remove_host(id_)
                self._make_host(id_)

    def _make_host(self, id_):
        number = self.number
        _batch([f"netns add lus{number}-{id_}"])
        outside, inside = [], ["link set lo up"]
        for network in NETWORKS:
            end = f"lus{number}{id_}-{network}"
            outside += [
                f"link add {end} type veth peer name {network} address {_mac(network, number, id_)} netns lus{number}-{id_}",
                f"link set {end} master lus{number}-{network} up",
                f"neigh replace {address(network, number, id_)} lladdr {_mac(network, number, id_)} dev lus{number}-{network} nud permanent",
            ]
            inside += [f"addr add {address(network, number, id_)}/24 dev {network}", f"link set {network} up"]
            inside += [
                f"neigh replace {address(network, number, other)} lladdr {_mac(network, number, other)} dev {network} nud permanent"
                for other in (None, *IDS)
                if other != id_
            ]
        _batch(outside)
        # Not `ip -n`, which wants to change how / is mounted; in a chroot that is no mount.
        _batch(inside, self.enter(id_))
        _batch([f"link set lus{number}{id_}-public alias {_MARK}"])

    def _remove_host(self, id_):
        for network in NETWORKS:
            _delete(f"lus{self.number}{id_}-{network}")
        if (_NAMESPACES / f"lus{self.number}-{id_}").exists():
            _batch([f"netns del lus{self.number}-{id_}"])

    def enter(self, id_):
        """The words before a command line that is to run on a daemon's host; the process stays the same."""
        return ["nsenter", f"--net={_NAMESPACES}/lus{self.number}-{id_}", "--"]

    def cuts(self):
        """{id: [networks that are cut]} of daemons that have any."""
        found = {}
        for link in _links():
            end = re.fullmatch(rf"lus{self.number}([a-z])-(ceph|public)", link["ifname"])
            if end and link.get("master") == f"lus{self.number}-cut":
                found.setdefault(end[1], []).append(end[2])
        return {id_: sorted(networks) for id_, networks in found.items()}

    def cut(self, id_, which):
        """Cuts one of `CUTS` of a daemon's host, silently and in both directions; what is cut stays so."""
        self._plug(id_, which, lambda network: "cut")

    def heal(self, id_, which="both"):
        """The end of a cut."""
        self._plug(id_, which, lambda network: network)

    def _plug(self, id_, which, bridge):
        if self.find() is None or id_ not in self.ids():
            raise Failure(f"lus.{id_} has no host of its own", "start the cluster with them: tools/vstart up --hosts")
        networks = NETWORKS if which == "both" else [which]
        _batch([f"link set lus{self.number}{id_}-{network} master lus{self.number}-{bridge(network)}" for network in networks])

    def remove(self):
        """Takes away all of it, also what a vstart that was killed left half made."""
        while self.find() is not None:
            ui.progress("hosts", f"takes the networks lus{self.number}-* away")
            names = [link["ifname"] for link in _links()]
            for found in filter(None, (re.fullmatch(rf"lus{self.number}[a-z]-(ceph|public)", name) for name in names)):
                _delete(found[0])
            if _NAMESPACES.is_dir():
                _batch([f"netns del {path.name}" for path in sorted(_NAMESPACES.glob(f"lus{self.number}-[a-z]"))])
            # The one with the mark goes last.
            for network in ("cut", "public", "ceph"):
                _delete(f"lus{self.number}-{network}")
        self.number = None

    def _is_mine(self, mark):
        program, _, rest = mark.partition(":")
        fsid, _, folder = rest.partition(":")
        return program == _MARK and (fsid == self.fsid if self.fsid else folder == str(self.dir))


def require():
    """Fails where this process cannot make namespaces, by what can be seen beforehand."""
    require_root()
    missing = [f"{command} (package {package})" for command, package in (("ip", "iproute2"), ("nsenter", "util-linux")) if not shutil.which(command)]
    if missing:
        raise Failure(f"hosts of their own (--hosts) need {' and '.join(missing)}", "install it, or repeat with --install")


def require_root():
    """Fails for anybody but root."""
    if os.geteuid() != 0:
        raise Failure("hosts of their own (--hosts) are network namespaces, and only root can make those", "repeat as root, or leave out --hosts")


def _host(id_):
    return _ROOT if id_ is None else _FIRST + IDS.index(id_)


def _mac(network, number, id_=None):
    """Locally administered, and as unique on this machine as the address."""
    return f"02:4c:55:{list(NETWORKS).index(network):02x}:{number:02x}:{_host(id_):02x}"


def _numbers_in_use():
    """Numbers whose subnets somebody on this machine has an address of or a route to."""
    used = set()
    for words in (["-4", "addr"], ["-4", "route", "show", "table", "all"]):
        for text in re.findall(r"\b198\.1[89]\.(\d+)\.", _ip(*words)):
            used.add(int(text))
    return used


def _links():
    return json.loads(_ip("-d", "-j", "link") or "[]")


def _batch(lines, enter=()):
    """Commands of `ip`, all by one process, the first error ends them; `enter` are the words before it."""
    if not lines:
        return
    done = _run(["-batch", "-"], "".join(f"{line}\n" for line in lines), enter)
    if done.returncode != 0:
        failed = re.search(r"Command failed -:(\d+)", done.stderr)
        _fail(lines[int(failed[1]) - 1].split() if failed else ["-batch"], done)


def _delete(link):
    """Deletes a link; one that is gone, or goes with its namespace, is none to delete."""
    done = _run(["link", "del", link])
    if done.returncode != 0 and "Cannot find device" not in done.stderr:
        _fail(["link", "del", link], done)


def _try(command):
    """Whether a command of `ip` that makes something was the one to make it; False if it is there."""
    done = _run(command.split())
    if done.returncode != 0 and "File exists" not in done.stderr:
        _fail(command.split(), done)
    return done.returncode == 0


def _ip(*words):
    done = _run(words)
    if done.returncode != 0:
        _fail(words, done)
    return done.stdout


def _run(words, text="", enter=()):
    try:
        return subprocess.run([*enter, "ip", *words], input=text, capture_output=True, text=True, timeout=_SECONDS, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired:
        raise Failure(f"`ip {' '.join(words)}` takes longer than {_SECONDS} s") from None


def _fail(words, done):
    said = done.stderr.strip()
    todo = None
    if "not permitted" in said:
        todo = "this takes root with CAP_NET_ADMIN and CAP_SYS_ADMIN, which a container often has not; or leave out --hosts"
    elif "Unknown device type" in said or "not supported" in said:
        todo = "this kernel lacks bridges, veth or network namespaces; leave out --hosts"
    raise Failure(f"`ip {' '.join(words)}`: {said}", todo)
