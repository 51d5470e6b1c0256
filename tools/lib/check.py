"""tools/check: everything that must pass, one step after the other."""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import build
import layout
import packages
import steps
import ui
from build import ROOT
from cluster import Cluster
from steps import Outcome, Step
from ui import Failure

PROGRAM = "tools/check"
TOOLS_TESTS = ROOT / "tools" / "lib" / "test_tools.py"
WORK = ROOT / "target" / "check"
QA_CHECKS = ROOT / "qa" / "checks"
QA_TESTS = ROOT / "qa" / "tests"
FUZZ = ROOT / "qa" / "fuzz"
# Suites of qa/suites/lus that are part of it; the others are for `qa/run lus`.
SUITES = ("smoke", "clients", "auth", "durability")
# Suites of which one job is: the suite, what its description has, and a fragment for it.
SINGLE_JOBS = {
    "multipath": ("fault/restart", None),
    "kernel": ("workload/boot", None),
    "conformance": ("block/512 one-copy roles store/ram", "short.yaml.disable"),
}

# cargo-deny is built once where it is not installed (about four minutes), into target/tools.
CARGO_DENY = "0.20.2"
DENY_ROOT = ROOT / "target" / "tools"

# Limits in seconds. The first build of everything on two slow cores is the longest of all.
LIMIT_CARGO = 1500
LIMIT_QUICK = 300
LIMIT_ADVISORIES = 60
LIMIT_QA = 300
# Of a whole suite; qa/run limits each job.
LIMIT_SUITE = 1800
SKIPPED_STATUS = 77

ABOUT = """\
Runs everything that must pass: format, lints, dependencies' licences, docs, layout, unit and property tests, then the
tests and the checks of qa/checks against a real cluster that it starts in target/check/cluster and destroys, and at the
end suites of qa/suites, whose jobs each have a cluster of their own.

    tools/check                      all of it; installs missing Debian packages
    tools/check --quick              without a cluster
    tools/check --only clippy        only the steps with this text in their name (repeatable)
    tools/check --list               the steps

Each step's output is in target/check/log. The last line is `N passed, N failed, N skipped`: each test and each other
step counts as one. The exit status is 0 only if nothing failed.
"""


def main():
    """Reads the command line and runs the steps."""
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
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="without a cluster")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only steps with TEXT in their name")
    parser.add_argument("--list", action="store_true", help="print the steps' names and do nothing")
    parser.add_argument("--jobs", type=int, metavar="N", help="cargo's parallel jobs (default: as many as cores)")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    return parser


def _run(options):
    cargo = build.require_cargo()
    chosen = [step for step in _plan(cargo, options) if not options.only or any(text in step.name for text in options.only)]
    if not chosen:
        raise Failure(f"no step has {' or '.join(options.only)} in its name", "see --list")
    if options.list:
        print(*(step.name for step in chosen), sep="\n")
        return 0
    needed = [packages.BUILD, packages.VENV]
    needs_cluster = any(step.cluster for step in chosen)
    if needs_cluster:
        needed += [packages.CLUSTER, packages.CLIENTS, packages.CHECKS, packages.NETWORK]
    packages.ensure(True, *needed)
    session = _ClusterSession(options.keep)
    if needs_cluster:
        begin, end = session.steps()
        users = [i for i, step in enumerate(chosen) if step.cluster]
        first, behind = users[0], users[-1] + 1
        chosen = [*chosen[:first], *begin, *chosen[first:behind], *end, *chosen[behind:]]
    try:
        return steps.run_all(chosen, WORK / "log", session.ready)
    finally:
        session.end()


def _plan(cargo, options):
    """All steps in their order; those that need a cluster last."""
    environment = build.environment()
    environment["CARGO_TERM_COLOR"] = "never"
    if options.jobs:
        environment["CARGO_BUILD_JOBS"] = str(options.jobs)
    docs = {**environment, "RUSTDOCFLAGS": "-D warnings"}
    every = ["--locked", "--workspace", "--all-features"]
    metadata = json.loads(_output(cargo, "metadata", "--format-version=1", "--no-deps"))

    def command(*words, env=environment, limit=LIMIT_CARGO, judge=steps.by_status):
        return lambda context: steps.run_command(context, words, env, limit, judge)

    plan = [
        Step("format", command(cargo, "fmt", "--all", "--check", limit=LIMIT_QUICK)),
        Step("format fuzz", command(cargo, "fmt", "--manifest-path", FUZZ / "Cargo.toml", "--check", limit=LIMIT_QUICK)),
        Step("layout", lambda context: _layout(context, metadata)),
        Step("tools", command("/usr/bin/python3", "-B", TOOLS_TESTS, limit=LIMIT_QUICK)),
        Step("bench tools", command("/usr/bin/python3", "-B", "-m", "unittest", "discover", "-s", ROOT / "qa" / "bench", limit=LIMIT_QUICK)),
        Step("qa conformance verdicts", command(QA_TESTS / "test_conformance.py", limit=LIMIT_QUICK)),
        Step("qa suites expand", command(QA_TESTS / "test_suites.py", limit=LIMIT_QUICK)),
        Step("clippy", command(cargo, "clippy", *every, "--all-targets", "--", "-D", "warnings")),
        Step("deny", lambda context: _deny(context, cargo, environment, "licenses", "bans", "sources")),
        Step("deny advisories", lambda context: _advisories(context, cargo, environment)),
        Step("docs", command(cargo, "doc", *every, "--no-deps", env=docs)),
        Step("tests", command(cargo, "test", "--locked", "--workspace", "--no-fail-fast", judge=steps.by_test_results)),
    ]
    if options.quick:
        return plan
    binaries = [word for name in build.BINARIES for word in ("-p", name)]
    plan.append(Step("build", command(cargo, "build", "--locked", "--release", *binaries)))
    plan.append(Step("fuzz", command(FUZZ / "run", "--seconds", "5")))
    plan.append(Step("microbench", command(ROOT / "qa" / "bench" / "micro", judge=_by_last_line)))
    for package in metadata["packages"]:
        if "cluster-tests" not in package["features"]:
            continue
        gated = [t["name"] for t in package["targets"] if "cluster-tests" in t.get("required-features", [])]
        words = ["test", "--locked", "-p", package["name"], "--features", "cluster-tests", "--no-fail-fast"]
        words += [word for name in gated for word in ("--test", name)]
        plan.append(
            Step(
                f"cluster tests of {package['name']}",
                lambda context, words=words: steps.run_command(
                    context, [cargo, *words], {**environment, **_exports()}, LIMIT_CARGO, steps.by_test_results
                ),
                cluster=True,
            )
        )
    for path in qa_checks():
        plan.append(Step(f"qa {path.name}", lambda context, path=path: _qa(context, path, environment), cluster=True))
    plan.append(Step("qa runner", command(QA_TESTS / "test_runner.py", limit=LIMIT_SUITE)))
    for suite in SUITES:
        words = (ROOT / "qa" / "run", f"lus/{suite}", "--no-build")
        plan.append(Step(f"suite {suite}", command(*words, limit=LIMIT_SUITE, judge=steps.by_last_line)))
    for suite, (job, fragment) in SINGLE_JOBS.items():
        # An emulated machine beside whatever else runs: slow is no failure.
        words = (ROOT / "qa" / "run", f"lus/{suite}", "--filter", job, "--no-build", "--timeout", str(LIMIT_SUITE - 100))
        words += ("--override", ROOT / "qa" / "suites" / "lus" / suite / fragment) if fragment else ()
        plan.append(Step(f"suite {suite}", command(*words, limit=LIMIT_SUITE, judge=steps.by_last_line)))
    return plan


def qa_checks():
    """The executables of qa/checks; what is not executable there helps them."""
    if not QA_CHECKS.is_dir():
        return []
    return sorted(path for path in QA_CHECKS.iterdir() if path.is_file() and os.access(path, os.X_OK))


# Single steps


def _layout(context, metadata):
    problems = layout.problems(ROOT, metadata)
    context.log.write_text("".join(f"{problem}\n" for problem in problems))
    return Outcome(failed=1) if problems else Outcome(passed=1)


def _cargo_deny(context, cargo, environment):
    """Path of cargo-deny, built if it must be; None if that failed."""
    found = shutil.which("cargo-deny", path=f"{environment['PATH']}:{DENY_ROOT}/bin")
    if found:
        return found
    context.note("builds cargo-deny, once")
    words = [cargo, "install", "--locked", "--root", DENY_ROOT, "--version", CARGO_DENY, "cargo-deny"]
    done = steps.run_command(context, words, {**environment, "CARGO_TARGET_DIR": str(DENY_ROOT / "build")}, LIMIT_CARGO)
    shutil.rmtree(DENY_ROOT / "build", ignore_errors=True)
    return None if done.failed else str(DENY_ROOT / "bin" / "cargo-deny")


def _deny(context, cargo, environment, *what):
    deny = _cargo_deny(context, cargo, environment)
    if deny is None:
        return Outcome(failed=1)
    return steps.run_command(context, [deny, "--locked", "check", *what], environment, LIMIT_QUICK)


def _advisories(context, cargo, environment):
    deny = _cargo_deny(context, cargo, environment)
    if deny is None:
        return Outcome(failed=1)
    words = [deny, "--locked", "fetch", "db"]
    fetched = steps.run_command(context, words, environment, LIMIT_ADVISORIES)
    unreachable = "failed to fetch advisory database" in context.log.read_text(errors="replace")
    if fetched.failed and (unreachable or fetched.timed_out):
        return Outcome(skipped=1, reason="the advisory database cannot be fetched from this network")
    if fetched.failed:
        return fetched
    return steps.run_command(context, [deny, "--locked", "check", "advisories"], environment, LIMIT_QUICK)


def _by_last_line(status, log):
    """As its status says, with its last line as the reason."""
    outcome = steps.by_status(status, log)
    outcome.reason = " ".join(ui.tail(log, 1))
    return outcome


def _qa(context, path, environment):
    """One check of qa/checks, in the environment of the cluster: 0 passed, 77 skipped with a reason on its last line."""
    found = re.search(r"time-limit: (\d+)", path.read_text(errors="replace"))
    limit = int(found[1]) if found else LIMIT_QA

    def judge(status, log):
        if status == SKIPPED_STATUS:
            return Outcome(skipped=1, reason=" ".join(ui.tail(log, 1)) or "no reason given")
        return steps.by_status(status, log)

    outcome = steps.run_command(context, [path], {**environment, **_exports()}, limit, judge)
    dead = _session_cluster().stopped()
    if dead and outcome.passed:
        return Outcome(failed=1, reason=f"it left {' '.join(dead)} not running")
    return outcome


# The cluster


def _session_cluster():
    return Cluster(WORK / "cluster")


def _exports():
    return _session_cluster().exports()


class _ClusterSession:
    """The cluster of one run: made before the first step that needs it, gone after the last."""

    def __init__(self, keep):
        self.keep = keep
        self.begun = False

    def steps(self):
        """The steps around those that use the cluster."""
        return [Step("cluster starts", self._start)], [Step("cluster stops", self._stop, cluster=True)]

    def ready(self, context):
        """Before each step that needs the cluster: None if all of it runs, else the outcome of a step that cannot."""
        if not self.begun:
            return Outcome(skipped=1, reason="the cluster did not start")
        dead = _session_cluster().stopped()
        if dead:
            context.note(f"starts {' '.join(dead)} again")
            if self._vstart(context, "up").failed:
                # Nothing says yet that something is wrong: the steps before may all have passed.
                return Outcome(failed=1, reason=f"{' '.join(dead)} did not start again")
        return None

    def end(self):
        """After an interruption, too: nothing stays behind."""
        if self.begun and not self.keep:
            with open(WORK / "log" / "cluster-end.log", "ab") as log:
                words = [ROOT / "tools" / "vstart", "destroy", "--dir", WORK / "cluster"]
                subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _start(self, context):
        self._vstart(context, "destroy")
        # From here on there may be processes to stop, even where `up` fails.
        self.begun = True
        outcome = self._vstart(context, "up", "--osds", "1", "--lusds", "1")
        if outcome.failed:
            self.end()
            self.begun = False
        return outcome

    def _stop(self, context):
        crashes = [path.name for path in (WORK / "cluster" / "crash").iterdir() if path.name != "posted"]
        if crashes:
            context.log.write_text("".join(f"{name}\n" for name in crashes))
            self.keep = True
            return Outcome(failed=1, reason=f"a daemon crashed: see {WORK}/cluster/crash")
        if self.keep:
            return Outcome(passed=1, reason=f"kept: tools/vstart status --dir {WORK}/cluster")
        outcome = self._vstart(context, "destroy")
        self.begun = bool(outcome.failed)
        return outcome

    def _vstart(self, context, verb, *words):
        words = [ROOT / "tools" / "vstart", verb, "--dir", WORK / "cluster", *words]
        return steps.run_command(context, words, build.environment(), LIMIT_CARGO)


def _output(*words):
    done = subprocess.run(
        words, cwd=ROOT, env=build.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if done.returncode != 0:
        raise Failure(f"`{' '.join(map(str, words))}`: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
