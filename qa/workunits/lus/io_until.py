#!/usr/bin/python3 -Bs
"""Writes, reads and verifies while daemons of Ceph are restarted: I/O stalls, but none fails, and nothing is lost.

Two disks: on one the durability client writes and reads (no command may end with anything but GOOD, the session must hold), on the other fio writes and verifies, one
job after the other. Both go on until $TESTDIR/lus.stop is there; then all is compared with what was acknowledged, and both images with what librbd reads.

Environment: EXPECT, the daemons that must have been restarted meanwhile (qa/lib/disturb.py); DIGEST none (default) or header."""

import json
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lib"))
import disturb  # noqa: E402
import qa  # noqa: E402
import qemu  # noqa: E402

SIZE_MIB = 64
BLOCKS = 8192  # of 4 KiB that the durability client writes to
COMMAND_S = 240  # a command may wait for so long; an OSD that is only reported by its peers' heartbeats is out of service for 20 s and more
FIO_MIB = 8  # of one job
STAMPED, FIO = "rbd/qa-until-stamped", "rbd/qa-until-fio"
DIGEST = qa.digest_wanted()


class FioLoop(threading.Thread):
    """fio's jobs, one after the other, until `stop()`."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.jobs, self.mib, self.failure, self._stop_wanted = url, 0, 0, None, False

    def run(self):
        words = ["--rw=randwrite", "--bs=4k", "--iodepth=16", f"--size={FIO_MIB}M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]
        try:
            while not self._stop_wanted:
                job = qa.fio(self.url, *words, f"--randseed={self.jobs + 1}", digest=DIGEST)["jobs"][0]
                qa.require(0 < job["write"]["io_bytes"] == job["read"]["io_bytes"], f"wrote {job['write']['io_bytes']} bytes, verified {job['read']['io_bytes']}")
                self.jobs += 1
                self.mib += job["write"]["io_bytes"] >> 20
        except (qa.Failed, qa.Skipped) as failure:
            self.failure = failure

    def require_alive(self):
        if self.failure:
            raise qa.Failed(f"fio: {self.failure}")

    def stop(self):
        """Lets the job that runs come to its end."""
        self._stop_wanted = True
        self.join()
        self.require_alive()
        qa.require(self.jobs > 0, "fio finished no job")


def client(*words):
    """Runs the durability client to its end; its report."""
    result = qa.run([qa.client("durability"), *words, "--timeout", COMMAND_S], timeout=2 * COMMAND_S, env=qa.digest_env() if DIGEST else None)
    return json.loads(result.stdout.splitlines()[-1])


def require_writing(writer):
    if writer.poll() is not None:
        out, err = writer.communicate()
        raise qa.Failed(f"the durability client ended with {writer.returncode}\n{out}{err}")


def check_copies(cluster, image, url):
    """librbd and iSCSI read the same."""
    by_librbd = pathlib.Path("by-librbd")
    by_librbd.unlink(missing_ok=True)
    qemu.export(cluster, image, by_librbd)
    twin = qemu.Twin(by_librbd, SIZE_MIB << 20)
    copy = pathlib.Path("by-iscsi")
    qemu.download(url, copy, DIGEST)
    twin.compare(copy, f"{url} over iSCSI")


def main():
    cluster, log = qa.Cluster.given(), pathlib.Path.cwd() / "log"
    qa.fio_binary()
    with cluster.target("until") as target:
        urls = {image: target.url(target.create(image, f"{SIZE_MIB}M")) for image in (STAMPED, FIO)}
        watch = disturb.Watch(cluster)
        env = qa.digest_env() if DIGEST else None
        words = ["--blocks", BLOCKS, "--depth", 16, "--timeout", COMMAND_S]
        writer = qa.spawn([qa.client("durability"), "write", urls[STAMPED], log, *words], stdout=-1, stderr=-1, text=True, env=env)
        if writer.stdout.readline() != "writing\n":
            writer.wait(COMMAND_S)
            require_writing(writer)
        fio = FioLoop(urls[FIO])
        fio.start()

        def alive():
            require_writing(writer)
            fio.require_alive()

        with watch.window(alive):
            qa.say("writing until the restarts are over")
        restarted = watch.require_restarts()
        writer.terminate()
        out, err = writer.communicate(timeout=COMMAND_S)
        wrote = json.loads(out.splitlines()[-1])
        qa.require(writer.returncode == qa.CLIENT_FINE and wrote["refused"] == 0, f"the durability client ended with {writer.returncode}\n{out}{err}")
        fio.stop()
        found = client("check", urls[STAMPED], log)
        qa.say(
            f"restarted: {restarted}; {wrote['acknowledged']} writes acknowledged, none failed, the longest wait {wrote['longest_s']:.2f} s; "
            f"{found['checked_blocks']} blocks right; fio: {fio.jobs} jobs, {fio.mib} MiB written and verified"
        )
        for image, url in urls.items():
            check_copies(cluster, image, url)


qa.run_check(main)
