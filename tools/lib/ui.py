"""What the tools print: progress with elapsed time, errors that say what to do, a table."""

import os
import sys
import time

_START = time.monotonic()
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


class Failure(Exception):
    """An error for the user: what went wrong, and what to do about it."""

    def __init__(self, what, todo=None):
        super().__init__(what)
        self.what = what
        self.todo = todo


def colour(text, name, stream=sys.stderr):
    """`text` in a colour where `stream` is a terminal (NO_COLOR is respected)."""
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[name]}m{text}\033[0m"


def progress(what, text):
    """One line of progress on stderr: elapsed seconds, what it is about, what happens."""
    elapsed = time.monotonic() - _START
    print(f"{elapsed:7.1f} s  {what:<10} {text}", file=sys.stderr, flush=True)


def report(failure, program):
    """Prints a Failure on stderr."""
    print(f"{program}: {colour(failure.what, 'red')}", file=sys.stderr)
    if failure.todo:
        print(f"{program}: {failure.todo}", file=sys.stderr)


def table(headings, rows):
    """A table as Ceph's tools print it: upper-case headings, two spaces between columns, no borders."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cells[i]) for cells in [headings, *rows]) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in [headings, *rows]
    )


def tail(path, lines):
    """The last lines of a text file that are not blank, as a list; empty when there is no such file."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode(errors="replace").splitlines()
            return [line for line in text if line.strip()][-lines:]
    except FileNotFoundError:
        return []


def size(byte_count):
    """Bytes for people: `3.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if byte_count < 1024:
            return f"{byte_count:.0f} {unit}" if unit == "B" else f"{byte_count:.1f} {unit}"
        byte_count /= 1024
    return f"{byte_count:.1f} TiB"
