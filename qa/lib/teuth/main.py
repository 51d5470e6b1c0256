"""The command line of qa/run."""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parents[3] / "tools" / "lib")]
import build  # noqa: E402
import packages  # noqa: E402
import ui  # noqa: E402
from teuth import QA, TEUTH, runner, venv  # noqa: E402
from ui import Failure  # noqa: E402

PROGRAM = "qa/run"
SUITES = QA / "suites"
EXIT_NOTHING_RAN = 2

ABOUT = """\
Runs a suite: its jobs are what teuthology makes of a folder of qa/suites, each with a Ceph cluster of its own on this machine.

    qa/run lus                        everything
    qa/run lus/smoke                  one suite; lus:smoke is the same
    qa/run lus --filter 4096          the jobs with 4096 in their description
    qa/run lus --list                 what would run
    qa/run lus/smoke --keep           leaves the cluster of a failed job running

Logs, one folder for each job, are in target/qa/archive. The last line is `N passed, N failed, N skipped`; the exit status is 0 if none
failed and at least one ran. The same folders run on a teuthology lab; qa/README.md says how and where the two differ.
"""


def main():
    """Reads the command line and runs the jobs."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(_run(options))
    except Failure as failure:
        ui.report(failure, PROGRAM)
        print("0 passed, 1 failed, 0 skipped", flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        ui.report(Failure("interrupted"), PROGRAM)
        sys.exit(130)


def _parser():
    parser = argparse.ArgumentParser(prog=PROGRAM, description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="a folder of qa/suites, such as lus or lus/smoke")
    parser.add_argument("--filter", action="append", default=[], metavar="TEXT", help="only jobs with TEXT in their description (repeatable: any of them)")
    parser.add_argument("--filter-out", action="append", default=[], metavar="TEXT", help="no jobs with TEXT in their description (repeatable)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="for what is picked at random (default 1)")
    parser.add_argument("--list", action="store_true", help="print the jobs and do nothing")
    parser.add_argument("-f", "--format", choices=("plain", "json"), default="plain", help="of --list")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="jobs at the same time (default 1)")
    parser.add_argument("--timeout", type=_positive, default=900, metavar="SECONDS", help="limit of each job (default 900)")
    parser.add_argument(
        "--override", action="append", default=[], type=pathlib.Path, metavar="FILE", help="a fragment (YAML) merged into each job last (repeatable)"
    )
    parser.add_argument("--junit", type=pathlib.Path, metavar="FILE", help="where the JUnit XML goes (default: into the archive)")
    parser.add_argument("--archive", type=pathlib.Path, metavar="DIR", help="where the logs go (default: target/qa/archive/RUN; the latest few runs stay)")
    parser.add_argument("--keep", action="store_true", help="leave the cluster and the files of failed jobs")
    parser.add_argument("--no-build", action="store_true", help="take lusd and lus as they were built")
    parser.add_argument("--port-base", type=_positive, default=18000, metavar="P", help="jobs take free ports from P on (default 18000)")
    parser.add_argument("--suites", type=pathlib.Path, default=SUITES, metavar="DIR", help="another folder of suites")
    return parser


def _run(options):
    suite = options.suite.replace(":", "/").strip("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", suite) or not (options.suites / suite).is_dir():
        raise Failure(f"there is no suite {options.suite} in {options.suites}", f"there are {', '.join(_suites(options.suites))}")
    python = venv.python()
    jobs = _expand(python, options, suite)
    if options.list:
        _print_jobs(jobs, options.format)
        return 0
    if not jobs:
        print("no job has what --filter asks for\n0 passed, 0 failed, 0 skipped")
        return EXIT_NOTHING_RAN
    packages.ensure(True, packages.CLUSTER, packages.BUILD, packages.CLIENTS, packages.CHECKS, packages.NETWORK, packages.VM)
    if not options.no_build:
        build.build("release")
    elif not build.built("release"):
        raise Failure(f"{build.bin_dir('release')} has no lusd", "leave out --no-build")
    return runner.Run(python, suite, jobs, options).run()


def _suites(folder):
    return sorted(str(path.relative_to(folder)) for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _expand(python, options, suite):
    """The jobs that are wanted, numbered from 1 on as they are in the whole suite, so that a filter does not renumber them."""
    words = [python, "-Bs", TEUTH / "expand.py", options.suites.absolute(), suite, str(options.seed), *(path.absolute() for path in options.override)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=venv.environment())
    if done.returncode != 0:
        raise Failure(f"the suite {suite} does not expand:\n{done.stderr.strip()}")
    jobs = json.loads(done.stdout)
    for number, job in enumerate(jobs, 1):
        job["number"] = number
    return [job for job in jobs if _wanted(job["description"], options)]


def _wanted(description, options):
    return (not options.filter or any(text in description for text in options.filter)) and not any(text in description for text in options.filter_out)


def _print_jobs(jobs, form):
    if form == "json":
        print(
            json.dumps([{"number": job["number"], "description": job["description"], "paths": job["paths"], "config": job["config"]} for job in jobs], indent=4)
        )
    else:
        print(ui.table(["JOB", "DESCRIPTION"], [[job["number"], job["description"]] for job in jobs]))


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number from 1 on")
    return int(text)


main()
