"""Which Debian packages the tools need, which of them are missing, and their installation."""

import contextlib
import glob
import os
import pathlib
import shutil
import subprocess

from ui import Failure, progress

# Package -> what proves that it is there: a command, or a path pattern. Proofs rather than dpkg's database, so that a
# self-built Ceph or another distribution's names serve as well.
CLUSTER = {
    "ceph-mon": "ceph-mon",
    "ceph-mgr": "ceph-mgr",
    "ceph-osd": "ceph-osd",
    "ceph-common": "rbd",
    "python3-rados": "/usr/lib/python3/dist-packages/rados*.so",
}
BUILD = {
    "g++": "c++",
    "gcc": "cc",
    "libc6-dev": "/usr/include/stdlib.h",
    "librados-dev": "/usr/include/rados/librados.h",
    "libradospp-dev": "/usr/include/rados/librados.hpp",
    "librbd-dev": "/usr/include/rbd/librbd.h",
    "protobuf-compiler": "protoc",
}
CLIENTS = {
    "e2fsprogs": "mke2fs",
    "libiscsi-bin": "iscsi-ls",
    "qemu-utils": "qemu-img",
    "qemu-block-extra": "/usr/lib/*/qemu/block-iscsi.so",
}
# What qa/ builds its clients and fio's libiscsi engine with.
CHECKS = {
    "dpkg-dev": "dpkg-source",
    "libiscsi-dev": "/usr/include/iscsi/iscsi.h",
    "make": "make",
    "pkg-config": "pkg-config",
    "procps": "ps",
    "util-linux": "unshare",
    "zlib1g-dev": "/usr/include/zlib.h",
}
# What daemons on hosts of their own are made with.
NETWORK = {"iproute2": "ip", "util-linux": "nsenter"}
# What qa/bench compares with, and draws with.
BENCH = {
    "python3-pygal": "/usr/lib/python3/dist-packages/pygal",
    "tgt": "tgtd",
    "tgt-rbd": "/usr/lib/tgt/backing-store/bs_rbd.so",
}
# The virtual machine that is a Linux host (qa/vm); mke2fs, which it takes too, is among CLIENTS.
VM = {"cpio": "cpio", "qemu-system-x86": "qemu-system-x86_64"}
# What qa/run makes its Python environment with.
VENV = {"python3-venv": "/usr/lib/python3.*/ensurepip/__init__.py"}
# What qa/bench/micro counts instructions with.
MICRO = {"valgrind": "valgrind"}

_POLICY = pathlib.Path("/usr/sbin/policy-rc.d")
_POLICY_MARK = "# Placed by LUS's tools for the time of one installation: no service may start."
_POLICY_TEXT = f"#!/bin/sh\n{_POLICY_MARK}\nexit 101\n"
_SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing(*groups):
    """The names of the packages of these groups that are not there."""
    return sorted({name for group in groups for name, proof in group.items() if not _proved(proof)})


def ensure(install, *groups):
    """Installs what is missing of these groups, or fails with the line that would."""
    names = missing(*groups)
    if not names:
        return
    if not shutil.which("apt-get", path=_SEARCH_PATH):
        raise Failure(
            f"missing (by their Debian names): {' '.join(names)}", "this host has no apt-get: install them its own way"
        )
    if not install:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise Failure(
            f"missing packages: {' '.join(names)}",
            f"repeat with --install, or: {sudo}apt-get install --yes --no-install-recommends {' '.join(_specify(names))}",
        )
    _install(names)
    left = missing(*groups)
    if left:
        raise Failure(f"apt-get ended without an error, but these are still missing: {' '.join(left)}")


def _proved(proof):
    if proof.startswith("/"):
        return bool(glob.glob(proof))
    return shutil.which(proof, path=_SEARCH_PATH) is not None


def _install(names):
    progress("packages", f"installs {' '.join(names)}")
    with _no_services():
        # A fresh machine has no package lists; one that was not updated for long has lists of versions that are gone.
        if _apt("install", *_specify(names)) != 0:
            progress("packages", "updates the package lists and tries again")
            _apt("update")
            if _apt("install", *_specify(names)) != 0:
                raise Failure("apt-get failed, see above", "repair it (often: apt-get --fix-broken install), then repeat")


def _apt(verb, *names):
    options = ["--quiet", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]
    if verb == "install":
        options += ["--yes", "--no-install-recommends", "--allow-downgrades"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", f"PATH={_SEARCH_PATH}"]
    return subprocess.run(
        [*_as_root(), *environment, "apt-get", *options, verb, *names],
        stdin=subprocess.DEVNULL,
        # stdout carries answers of the tools only.
        stdout=2,
    ).returncode


def _specify(names):
    """Names for apt-get. qemu-utils and qemu-block-extra only work at one version: where one is asked for, both are named."""
    pair = ("qemu-utils", "qemu-block-extra")
    names = [name for name in names if name not in pair] + [name for name in pair if set(names) & set(pair)]
    if not set(names) & set(pair):
        return names
    # Keep the version of the one that is installed if the other is to be had in it, else take both from one archive.
    versions = {name: _versions(name) for name in pair}
    both = [version for version in versions[pair[0]] if version in versions[pair[1]]]
    installed = [version for name in pair for version in [_installed(name)] if version in both]
    if not both:
        return names
    version = (installed or [_candidate(pair[1]) if _candidate(pair[1]) in both else both[0]])[0]
    return [f"{name}={version}" if name in pair else name for name in names]


def _versions(name):
    """Versions to be had, the newest first."""
    lines = _query("apt-cache", "madison", name).splitlines()
    return [line.split("|")[1].strip() for line in lines if line.count("|") >= 2]


def _candidate(name):
    for line in _query("apt-cache", "policy", name).splitlines():
        if line.strip().startswith("Candidate:"):
            return line.split(":", 1)[1].strip()
    return None


def _installed(name):
    fields = _query("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", name).split()
    return fields[1] if len(fields) == 2 and fields[0] == "installed" else None


def _query(*argv):
    environment = {**os.environ, "LC_ALL": "C", "PATH": _SEARCH_PATH}
    return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout


def _as_root():
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise Failure("installing packages takes root, and there is no sudo", "repeat as root")


@contextlib.contextmanager
def _no_services():
    """Keeps services from starting when their package is installed (tgt would take port 3260, ceph-crash would run)."""
    try:
        ours = _POLICY_MARK in _POLICY.read_text(errors="replace")
    except FileNotFoundError:
        ours = True
    if not ours:
        # The administrator's own policy stands.
        yield
        return
    script = f"printf '%s' \"$1\" >{_POLICY}.lus && chmod 755 {_POLICY}.lus && mv {_POLICY}.lus {_POLICY}"
    subprocess.run([*_as_root(), "sh", "-c", script, "sh", _POLICY_TEXT], check=True, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([*_as_root(), "rm", "-f", str(_POLICY)], check=True, stdin=subprocess.DEVNULL)
