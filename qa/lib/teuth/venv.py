"""teuthology in a virtual environment below target/qa, made on first use from qa/requirements.txt."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

import packages
from teuth import BUILD, QA
from ui import Failure, progress

REQUIREMENTS = QA / "requirements.txt"
_HOME = BUILD / "venv"
# Written last: an environment without it, or with another one, is made anew.
_STAMP = _HOME / "made-from"
_LOG = BUILD / "venv.log"
# What the runner imports, most of what teuthology needs with it.
_PROOF = "import junitparser, teuthology.suite.merge, teuthology.run_tasks, teuthology.orchestra.remote"


def python():
    """The environment's interpreter; makes the environment where it is missing, half made, or of other requirements."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_good():
            packages.ensure(True, packages.VENV)
            _make()
    return _HOME / "bin" / "python"


def environment():
    """For a process that only expands suites: without a configuration of teuthology that the user may have, and what teuthology would put into a home."""
    home = BUILD / "home"
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "teuthology.yaml"
    settings.write_text("{}\n")
    return {**os.environ, "HOME": str(home), "TEUTHOLOGY_CONFIG": str(settings)}


def _wanted():
    # A new minor version of Python does not find what an old one installed.
    return hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode() + str(_HOME).encode()).hexdigest()


def _is_good():
    with contextlib.suppress(OSError):
        return _STAMP.read_text() == _wanted() and _runs(environment(), "-c", _PROOF) == 0
    return False


def _runs(env, *words):
    with open(_LOG, "a") as log:
        words = [_HOME / "bin" / "python", "-Bs", *words]
        return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env).returncode


def _make():
    progress("venv", f"teuthology into {_HOME} (once, takes a minute)")
    shutil.rmtree(_HOME, ignore_errors=True)
    _LOG.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "venv", _HOME], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"python3 -m venv: {(done.stderr or done.stdout).strip()}", "install the package python3-venv, then repeat")
    # With the user's own home: where packages come from may be configured there.
    if _runs(dict(os.environ), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--requirement", str(REQUIREMENTS)) != 0:
        raise Failure("pip cannot install teuthology", f"see {_LOG}; it needs the network once")
    _STAMP.write_text(_wanted())
    if not _is_good():
        raise Failure("the environment was made but does not work", f"see {_LOG}")
