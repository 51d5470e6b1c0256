"""On what, with what and from what a run was made."""

import datetime
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

import qa


def about(settings, load, lusd=None, env=None):
    """Machine, versions, commit and command line, for results.json. `lusd`: its program; `env`: where its libraries and Ceph's tools are found."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "settings": settings,
        "machine": machine(),
        "versions": {
            "lusd": _first(lusd, "--version") if lusd else None,
            "tgt": _first("tgtd", "--version"),
            "ceph": _first("ceph", "--version", env=env),
            "librbd": _package("librbd1"),
            "libiscsi": _package("libiscsi7"),
            "fio": _first(load.binary, "--version"),
        },
        "commit": _first("git", "-C", qa.ROOT, "rev-parse", "HEAD"),
        "changed": bool(_first("git", "-C", qa.ROOT, "status", "--porcelain", "--untracked-files=no")),
        "lusd_built": _time(lusd) if lusd else None,
    }


def machine():
    """Processor, cores, memory (bytes), kernel, distribution."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME"),
    }


def _first(*argv, env=None):
    """The first line that a command prints; None where it fails or is not there."""
    try:
        done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _package(name):
    return _first("dpkg-query", "-W", "-f", "${Version}", name)


def _time(path):
    return datetime.datetime.fromtimestamp(os.stat(path).st_mtime, datetime.timezone.utc).isoformat(timespec="seconds")
