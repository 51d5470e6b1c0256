"""One job, as a process: what the command `teuthology` is on a lab, without the tasks that lock, install and reach machines.

Its argument is a JSON file: archive, work, cluster, logs, port_base, keep, path, config, name, job_id, description, result.
"""

import ctypes
import json
import logging
import os
import pathlib
import signal
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]
# Before anything else: it patches the standard library for gevent.
import teuthology  # noqa: E402  isort: skip
import gevent  # noqa: E402
import yaml  # noqa: E402
from teuth import ENDED_BY_RUNNER, QA, TEUTH, TOOLS, sweep  # noqa: E402

sys.path[:0] = [str(TOOLS), str(QA), str(TEUTH / "standins")]
import install  # noqa: E402
from teuth import local  # noqa: E402
from teuthology import run_tasks  # noqa: E402
from teuthology.config import FakeNamespace  # noqa: E402

log = logging.getLogger("job")

_PR_SET_PDEATHSIG = 1


class Interrupted(Exception):
    """The runner wants the job to end."""


def main():
    """Runs the job; exits with 0 if it passed. The runner writes the summary of one that cannot."""
    job = json.loads(pathlib.Path(sys.argv[1]).read_text())
    archive = pathlib.Path(job["archive"])
    _log_to(archive / "teuthology.log")
    # A stand-in must be found before the package's own; the ones that ceph.git has are found in `tasks`.
    sys.modules["teuthology.task.install"] = install
    config = job["config"]
    config.setdefault("tasks", [])
    config.update(archive_path=str(archive), job_id=job["job_id"], name=job["name"], suite_path=str(QA), description=job["description"])
    _dump(archive / "orig.config.yaml", config)
    _link_helpers(job)
    environment = _environment(job)
    ctx = FakeNamespace({"archive": str(archive), "owner": "qa/run", "name": job["name"], "description": job["description"], "verbose": True})
    ctx.config = config
    ctx.summary = {"success": True, "owner": "qa/run", "description": job["description"]}
    ctx.cluster = local.cluster_of(config.get("roles", []), environment, f"{job['work']}/home")
    ctx.local = {key: job[key] for key in ("work", "cluster", "logs", "port_base", "keep")} | {"env": environment}
    _end_on_sigterm()
    begun = time.monotonic()
    try:
        run_tasks.run_tasks(config["tasks"], ctx)
    except SystemExit:
        log.info("the job failed: %s", ctx.summary.get("failure_reason"))
    ctx.summary["duration"] = round(time.monotonic() - begun, 2)
    ctx.summary.pop("sentry_event", None)
    _dump(archive / "config.yaml", config)
    _dump(archive / "summary.yaml", ctx.summary)
    pathlib.Path(job["result"]).write_text(json.dumps(ctx.summary, default=str))
    sys.exit(0 if ctx.summary["success"] else 1)


def _log_to(path):
    for handler in list(logging.getLogger().handlers):
        logging.getLogger().removeHandler(handler)
    teuthology.setup_log_file(str(path))
    teuthology.log.setLevel(logging.DEBUG)
    teuthology.install_except_hook()


def _link_helpers(job):
    """teuthology's own helpers that it copies to a lab's machines; bin/ has those that must differ here."""
    for helper in (pathlib.Path(teuthology.__file__).parent / "task" / "install" / "bin").iterdir():
        (pathlib.Path(job["work"]) / "bin" / helper.name).symlink_to(helper)


def _environment(job):
    """The environment of a remote command: this machine's, the cluster's, and nothing else of Ceph or LUS."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CEPH_", "LUS_", "PYTHON", "TEUTHOLOGY_", "PROMETHEUS_"))}
    return {
        **kept,
        "CEPH_CONF": f"{job['cluster']}/ceph.conf",
        "HOME": f"{job['work']}/home",
        "PATH": job["path"],
        "TMPDIR": f"{job['work']}/tmp",
        sweep.MARK: job["work"],
    }


def _end_on_sigterm():
    """On SIGTERM, which also the runner's own death brings, the running task is ended as by an error, so that the tasks before it clean up."""
    main_greenlet = gevent.getcurrent()
    gevent.signal_handler(signal.SIGTERM, lambda: gevent.kill(main_greenlet, Interrupted(ENDED_BY_RUNNER)))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _dump(path, data):
    with open(path, "w") as file:
        yaml.safe_dump(data, file, default_flow_style=False)


main()
