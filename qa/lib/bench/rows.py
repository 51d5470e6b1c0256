"""The bench's rows: `<backend>-<block>-<op>-qd<depth>[-s<sessions>]`."""

import dataclasses
import fnmatch
import re

BACKENDS = ("null", "ram", "rbd")
OPS = ("randread", "randwrite", "read", "write")
DEPTH_MAX = 128  # commands of one session; lusd's window
SESSIONS_MAX = 64
BLOCK_KIB_MAX = 1024  # lusd's MaxBurstLength: one command is one burst for every target
SIZE = 256 << 20  # bytes that every row reads or writes in; images and files are as large

_NAME = re.compile(r"(?P<backend>[a-z]+)-(?P<kib>[1-9]\d*)k-(?P<op>[a-z]+)-qd(?P<depth>[1-9]\d*)(-s(?P<sessions>[1-9]\d*))?")


class BadRow(ValueError):
    """A name that is none of a row."""


@dataclasses.dataclass(frozen=True, order=True)
class Row:
    """One row: what lies behind the LUN, bytes of a request, fio's word for the pattern, requests in flight of each session, sessions."""

    backend: str
    block: int
    op: str
    depth: int
    sessions: int = 1

    @classmethod
    def parse(cls, name):
        """The row of a name; BadRow where it is not spelt as `name` spells it, or is out of bounds."""
        found = _NAME.fullmatch(name)
        if not found:
            raise BadRow(f"{name}: not <backend>-<block>k-<op>-qd<depth>[-s<sessions>]")
        kib, depth, sessions = int(found["kib"]), int(found["depth"]), int(found["sessions"] or 1)
        row = cls(found["backend"], kib << 10, found["op"], depth, sessions)
        if row.backend not in BACKENDS or row.op not in OPS:
            raise BadRow(f"{name}: backends are {', '.join(BACKENDS)}, operations {', '.join(OPS)}")
        if depth > DEPTH_MAX or sessions > SESSIONS_MAX or kib > BLOCK_KIB_MAX or kib & (kib - 1):
            raise BadRow(f"{name}: at most qd{DEPTH_MAX} and s{SESSIONS_MAX}; blocks are powers of two up to {BLOCK_KIB_MAX}k")
        if row.name != name:
            raise BadRow(f"{name}: is spelt {row.name}")
        return row

    @property
    def name(self):
        """The row's name."""
        sessions = f"-s{self.sessions}" if self.sessions > 1 else ""
        return f"{self.backend}-{self.block >> 10}k-{self.op}-qd{self.depth}{sessions}"

    @property
    def writes(self):
        """Whether it writes."""
        return self.op.endswith("write")

    def fio_words(self):
        """fio's words for it, the same for every target; where the load goes and how long it runs is not among them."""
        words = [f"--rw={self.op}", f"--bs={self.block >> 10}k", f"--iodepth={self.depth}", f"--numjobs={self.sessions}", f"--size={SIZE}"]
        # No map of the blocks that were visited: it is fio's own cost. Sessions count together. Latency is the whole of it, submission included.
        return [*words, "--norandommap", "--group_reporting", "--lat_percentiles=1", "--clat_percentiles=0"]


def _table():
    for backend in BACKENDS:
        # Reads first: what a Ceph OSD has in its cache after the images were read stays there until somebody writes.
        for op, big in (("randread", "read"), ("randwrite", "write")):
            yield from (Row(backend, 4 << 10, op, depth) for depth in (1, 32))
            yield Row(backend, 256 << 10, big, 8)
        if backend == "null":
            yield Row(backend, 4 << 10, "randread", 16, 4)


ROWS = tuple(_table())


def choose(patterns):
    """The rows of names and globs, in the table's order; all where there are none. A full name may be one that the table does not have. BadRow for what fits nothing."""
    if not patterns:
        return list(ROWS)
    chosen = set()
    for pattern in patterns:
        fitting = {row for row in ROWS if fnmatch.fnmatchcase(row.name, pattern)}
        if not fitting:
            if set(pattern) & set("*?["):
                raise BadRow(f"{pattern}: fits no row; --list shows them")
            fitting = {Row.parse(pattern)}
        chosen |= fitting
    return sorted(chosen, key=lambda row: (BACKENDS.index(row.backend), ROWS.index(row) if row in ROWS else len(ROWS), row.writes, row.name))
