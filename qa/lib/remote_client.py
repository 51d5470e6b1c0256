"""A client in C (qa/clients) on the machine of a role, and the LUs that it uses: what tasks have in common."""

import contextlib
import json
import time
from io import StringIO

import c_sources
from teuthology import misc
from teuthology.orchestra import run

RECORDS_SECONDS = 60
SERVED_SECONDS = 90
POLL_SECONDS = 0.3


@contextlib.contextmanager
def compiled(ctx, remote, role, name):
    """
    A folder on the client's machine with the client, compiled
    """
    folder = "%s/%s.%s" % (misc.get_testdir(ctx), name, role)
    remote.run(args=["mkdir", "--", folder])
    try:
        files = c_sources.of(name)
        for path in files:
            remote.write_file("%s/%s" % (folder, path.name), path.read_bytes())
        sources = ["%s/%s" % (folder, path.name) for path in files if path.suffix == ".c"]
        remote.run(args=["cc"] + c_sources.CFLAGS + ["-o", "%s/%s" % (folder, name)] + sources + ["-liscsi"])
        yield folder
    finally:
        remote.run(args=["rm", "-rf", "--", folder])


@contextlib.contextmanager
def kept(ctx, remote, role, folder, name):
    """
    The client's log, which is the only witness of what was lost, goes to the archive where the block fails, and others that begin with its name
    """
    try:
        yield folder + "/log"
    except BaseException:
        archive = "%s/%s.%s" % (misc.get_archive_dir(ctx), name, role)
        remote.run(args=["mkdir", "-p", "--", archive, run.Raw("&&"), "cp", "--", run.Raw(folder + "/log*"), archive], check_status=False)
        raise


def lus(remote, *words, **options):
    """
    `lus WORDS`; its stdout
    """
    return remote.sh(["sudo", "lus", "--cluster", "ceph"] + list(words), **options)


@contextlib.contextmanager
def disks(remote, iqn, images, size_mib):
    """
    A target that lets anybody in, and an LU for each image, mapped as LUN 0, 1 ...
    """
    try:
        lus(remote, "target", "create", iqn, "--open")
        for lun, image in enumerate(images):
            lus(remote, "lu", "create", image, "%dM" % size_mib)
            lus(remote, "lun", "map", iqn, image, "--lun", str(lun))
        yield
    finally:
        for words in [("target", "rm", iqn)] + [("lu", "rm", image) for image in images]:
            lus(remote, *words, "--yes-i-really-mean-it", check_status=False)


def served(remote, ids, images):
    """
    {daemon: [its LUNs]} once each image is served by one of the daemons

    :raises: :class:`RuntimeError` where that is not so within SERVED_SECONDS
    """
    end = time.monotonic() + SERVED_SECONDS
    while True:
        owners = {id_: [] for id_ in ids}
        for unit in json.loads(lus(remote, "lu", "ls", "-f", "json")):
            if unit["name"] in images and unit["state"] == "serving":
                owners[unit["owner"]].append(images.index(unit["name"]))
        if sum(len(luns) for luns in owners.values()) == len(images):
            return owners
        if time.monotonic() > end:
            raise RuntimeError("not every LU is served within %d s: %s" % (SERVED_SECONDS, owners))
        time.sleep(POLL_SECONDS)


class Host:
    """
    The client's machine, as the rounds of qa/lib take it
    """

    def __init__(self, remote, folder, name, seconds):
        self.remote = remote
        self.program = "%s/%s" % (folder, name)
        self.log = folder + "/log"
        self.seconds = seconds

    def begin(self, words):
        args = ["timeout", "%d" % self.seconds, self.program] + words
        return _Run(self.remote.run(args=args, stdin=run.PIPE, stdout=StringIO(), stderr=StringIO(), wait=False, check_status=False))

    def run(self, words):
        begun = self.begin(words)
        begun.proc.stdin.close()
        return begun

    def log_size(self):
        return int(self.remote.sh(["stat", "--format=%s", self.log]))

    def records(self):
        # There is no log before the client has begun one.
        return self.remote.sh(["grep", "^[MV] ", self.log], check_status=False, timeout=RECORDS_SECONDS).splitlines()


class _Run:
    """
    A client that runs
    """

    def __init__(self, proc):
        self.proc = proc

    def ended(self):
        return self.proc.finished

    def tell(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def result(self):
        self.proc.wait()
        return self.proc.exitstatus, self.proc.stdout.getvalue(), self.proc.stderr.getvalue()
