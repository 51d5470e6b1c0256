"""Finds cargo, and builds the daemon and the admin command."""

import os
import pathlib
import re
import shutil
import subprocess
import tomllib

from ui import Failure, progress

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Cargo's name of a profile -> its folder below the target folder.
PROFILES = {"release": "release", "dev": "debug"}
BINARIES = ("lusd", "lus")
_RUSTUP = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"


def target_dir():
    """Cargo's target folder."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def bin_dir(profile):
    """Where the binaries of a profile are."""
    return target_dir() / PROFILES[profile]


def built(profile):
    """Whether the binaries are there."""
    return all((bin_dir(profile) / name).exists() for name in BINARIES)


def environment():
    """The environment for cargo: its folder in PATH, an absolute target folder."""
    homes = [os.environ.get("CARGO_HOME"), os.path.expanduser("~/.cargo")]
    path = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes if home)]
    return {**os.environ, "PATH": ":".join(path), "CARGO_TARGET_DIR": str(target_dir())}


def require_cargo():
    """Fails, with rustup's own line, where cargo is missing or too old for this workspace."""
    wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    todo = f"install Rust {wanted} or newer with rustup, then repeat: {_RUSTUP}"
    cargo = shutil.which("cargo", path=environment()["PATH"])
    if cargo is None:
        raise Failure("cargo is not installed", todo)
    # In the checkout: rustup then reads the toolchain file, and fetches that toolchain if it must.
    done = subprocess.run(
        [cargo, "--version"], cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    version = re.match(r"cargo (\d+)\.(\d+)", done.stdout)
    if done.returncode != 0 or version is None:
        raise Failure(f"{cargo} --version fails, see above", todo)
    if tuple(map(int, version.groups())) < tuple(map(int, wanted.split(".")[:2])):
        raise Failure(f"{cargo} is {done.stdout.strip()}, too old", todo)
    return cargo


def build(profile):
    """Builds the binaries, or finds that nothing changed; cargo shows its own progress."""
    cargo = require_cargo()
    progress("build", f"cargo build, profile {profile}" + ("" if built(profile) else " (the first time takes minutes)"))
    words = [cargo, "build", "--profile", profile, *(word for name in BINARIES for word in ("-p", name))]
    done = subprocess.run(words, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=2)
    if done.returncode != 0:
        raise Failure("the build failed, see above", "for the bare cluster without daemons: tools/vstart up --lusds 0")
