"""The runner of the suites: teuthology's expansion, merge, tasks and remotes, with this machine where a lab would be.

venv.py      teuthology in a virtual environment        main.py      the command line of qa/run
expand.py    from a suite to its jobs                   runner.py    jobs as processes: limits, logs, verdicts
job.py       one job: what `teuthology` is on a lab     local.py     an "SSH client" that runs commands here
daemons.py   daemons of tools/vstart as ctx.daemons     ceph_up.py   starts the Ceph of a job
sweep.py     finds and ends what a job left running     bin/         what a lab's machines have on PATH
standins/    tasks of ceph.git and teuthology that need a lab, with the same contract
"""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
QA = ROOT / "qa"
TEUTH = QA / "lib" / "teuth"
TOOLS = ROOT / "tools" / "lib"
# Everything that the runner makes; git ignores it.
BUILD = ROOT / "target" / "qa"
# Why a job failed that the runner ended before it was done; the runner then says why it did.
ENDED_BY_RUNNER = "ended by qa/run"
