"""What a client in C (qa/clients) is made of. Standard library only, so that tasks can import it."""

import pathlib
import re

CLIENTS = pathlib.Path(__file__).resolve().parents[1] / "clients"
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]


def of(name):
    """The files of a program, in the order of their names: NAME.c, each header of the folder that it includes, and the source of that name; theirs too."""
    found, todo = set(), [CLIENTS / f"{name}.c"]
    while todo:
        path = todo.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        for header in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            todo += [CLIENTS / header, (CLIENTS / header).with_suffix(".c")]
    return sorted(found)
