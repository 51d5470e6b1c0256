"""The tree's own rules that no compiler checks: which crate may use what, how long a file may be, whether scripts parse."""

import ast
import os
import re
import subprocess

# Lines of a Rust file without its tests.
MAX_LINES = 800
# The only crates with `unsafe`; all others forbid it in their root.
UNSAFE_BELOW = "lusd/ceph/"
# Layers that know no runtime, no clock and no chance.
PURE_CRATES = ("lus-map", "lusd-iscsi", "lusd-scsi")
NOT_IN_PURE_CRATES = ("tokio", "rand", "getrandom")
_NOT_OURS = (".git/", "target/", "qa/build/")


def problems(root, metadata):
    """What is wrong, one sentence each; `metadata` is that of cargo."""
    found = []
    for name in _files(root):
        path = root / name
        if name.endswith(".rs"):
            found += _rust(name, path.read_text())
        elif name.startswith(("tools/", "qa/", ".ci/")):
            found += _script(name, path)
    return [*found, *_crates(root, metadata)]


def _files(root):
    """Paths of the files that git knows or would add, in order; of all but the built ones where there is no git."""
    listed = "git ls-files -z --cached --others --exclude-standard"
    try:
        done = subprocess.run(listed.split(), cwd=root, capture_output=True, text=True)
        names = done.stdout.split("\0") if done.returncode == 0 else None
    except FileNotFoundError:
        names = None
    if names is None:
        names = [os.path.relpath(os.path.join(at, name), root) for at, _, files in os.walk(root) for name in files]
    return sorted(name for name in names if not name.startswith(_NOT_OURS) and (root / name).is_file())


def _rust(name, text):
    code = text.split("\n#[cfg(test)]\nmod ", 1)[0]
    lines = code.count("\n")
    if lines > MAX_LINES and "/tests/" not in name and not name.endswith("tests.rs"):
        yield f"{name}: {lines} lines without its tests; {MAX_LINES} is the limit"
    if re.search(r"\bunsafe\b\s*(\{|fn|impl|extern)", text) and not name.startswith(UNSAFE_BELOW):
        yield f"{name}: unsafe outside {UNSAFE_BELOW}"


def _script(name, path):
    with path.open("rb") as file:
        first = file.readline()
    executable = os.access(path, os.X_OK)
    if first.startswith(b"#!") != executable and not name.endswith((".py", ".rs", ".c", ".h")):
        yield f"{name}: {'executable without a #! line' if executable else 'a #! line, but not executable'}"
    if name.endswith(".py") or b"python3" in first:
        try:
            ast.parse(path.read_text(), name)
        except (SyntaxError, UnicodeDecodeError) as error:
            yield f"{name}: {error}"
    elif name.endswith(".sh") or (first.startswith(b"#!") and first.strip().endswith((b"/sh", b"/bash", b"/sh -eu"))):
        shell = "bash" if b"bash" in first else "sh"
        done = subprocess.run([shell, "-n", path], capture_output=True, text=True)
        if done.returncode != 0:
            yield f"{name}: {done.stderr.strip()}"


def _crates(root, metadata):
    for package in metadata["packages"]:
        for target in package["targets"]:
            source = os.path.relpath(target["src_path"], root)
            if not set(target["kind"]) & {"lib", "bin"} or source.startswith(UNSAFE_BELOW):
                continue
            with open(target["src_path"]) as file:
                if "#![forbid(unsafe_code)]" not in file.read():
                    yield f"{source}: lacks #![forbid(unsafe_code)]"
        if package["name"] in PURE_CRATES:
            for dependency in package["dependencies"]:
                if dependency["kind"] is None and dependency["name"] in NOT_IN_PURE_CRATES:
                    yield f"{package['name']} depends on {dependency['name']}: it must know no runtime, clock or chance"
