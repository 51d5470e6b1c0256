"""Stand-in for ceph.git's task `workunit`: the same keys, environment and order, with this checkout where a lab clones one."""

import logging
import os
import shlex

from teuth import ROOT
from teuthology import misc
from teuthology.exceptions import ConfigError
from teuthology.orchestra import run
from teuthology.parallel import parallel

log = logging.getLogger(__name__)

_REFS = {"branch", "tag", "sha1", "suite_branch", "suite_sha1"}
KEYS = {"clients", "env", "timeout", "cleanup", "subdir", "basedir", "no_coverage_and_limits", *_REFS}
_TIMEOUT = "3h"
_CLEAN_SECONDS = 3600


def task(ctx, config):
    """Runs executables below qa/workunits on clients, all clients at once and each client's in order.

    `clients` is {client.0: [paths], all: [paths]}; a path may be a folder, and arguments may follow it. Raises ConfigError for what the
    real task would not take, and RuntimeError, CommandFailedError or CommandCrashedError where a workunit is missing or fails.
    """
    config = _checked(ctx, config)
    clients = config["clients"]
    named = {role: tests for role, tests in clients.items() if role != "all"}
    _on_clients(ctx, config, named)
    if "all" in clients:
        every = [role for role in misc.all_roles(ctx.cluster) if misc.is_type("client")(role)]
        for test in clients["all"]:
            _on_clients(ctx, config, {role: [test] for role in every})


def _checked(ctx, config):
    if not isinstance(config, dict):
        raise ConfigError("task workunit takes a dictionary")
    config = misc.deep_merge({}, config)
    overrides = misc.deep_merge({}, ctx.config.get("overrides", {}).get("workunit", {}))
    if _REFS & set(config):
        overrides = {key: value for key, value in overrides.items() if key not in _REFS}
    misc.deep_merge(config, overrides)
    unknown = sorted(set(config) - KEYS)
    if unknown:
        raise ConfigError(f"task workunit does not know {', '.join(unknown)}")
    if not isinstance(config.get("clients"), dict):
        raise ConfigError("task workunit: clients must be a dictionary")
    for role, tests in config["clients"].items():
        if role != "all" and "client" not in role:
            raise ConfigError(f"task workunit: {role} is no client")
        if not isinstance(tests, list):
            raise ConfigError(f"task workunit: the workunits of {role} must be a list")
    for name, value in (config.get("env") or {}).items():
        # The real task quotes each value, and a number cannot be quoted.
        if not isinstance(value, str):
            raise ConfigError(f"task workunit: env {name} must be text, not {value!r}: quote it")
    return config


def _on_clients(ctx, config, clients):
    with parallel() as group:
        for role, tests in clients.items():
            group.spawn(_run_tests, ctx, config, role, tests)


def _run_tests(ctx, config, role, tests):
    (remote,) = ctx.cluster.only(role).remotes
    cluster, _, id_ = misc.split_role(role)
    testdir = misc.get_testdir(ctx)
    mount = f"{testdir}/mnt.{id_}" if cluster == "ceph" else f"{testdir}/mnt.{cluster}.{id_}"
    subdir = config.get("subdir") or f"client.{id_}"
    scratch = f"{mount}/{subdir}" + ("" if config.get("subdir") else "/tmp")
    clone = f"{testdir}/clone.{role}"
    folder = f"{clone}/{config.get('basedir', 'qa/workunits')}"
    logger = log.getChild(role)
    remote.run(args=["mkdir", "-p", f"{mount}/{subdir}", run.Raw("&&"), "ln", "-sfn", str(ROOT), clone])
    try:
        found = _workunits(remote, logger, folder)
        for spec in tests:
            path, *arguments = shlex.split(spec)
            matching = [name for name in found if os.path.commonpath([name, path]) == path]
            if not matching:
                raise RuntimeError(f"Spec did not match any workunits: {spec!r}")
            for name in matching:
                _run_one(ctx, config, remote, logger, (clone, mount, scratch, id_, cluster), f"{folder}/{name}", name, arguments)
    finally:
        remote.run(args=["rm", "-f", "--", clone], logger=logger)
    if config.get("cleanup", True):
        remote.run(args=["sudo", "rm", "-rf", "--", f"{mount}/{subdir}", run.Raw("&&"), "rmdir", "--ignore-fail-on-non-empty", "--", mount], logger=logger)


def _workunits(remote, logger, folder):
    """All executables below a folder, relative to it, sorted; its Makefile is made first."""
    listed = remote.sh(
        f"cd -- {shlex.quote(folder)} && if test -e Makefile ; then make >&2 ; fi && find -executable -type f -printf '%P\\n'", logger=logger, quiet=True
    )
    return sorted(listed.split("\n")[:-1])


def _run_one(ctx, config, remote, logger, places, path, name, arguments):
    clone, mount, scratch, id_, cluster = places
    log.info("Running workunit %s...", name)
    testdir = misc.get_testdir(ctx)
    environment = {
        "CEPH_CLI_TEST_DUP_COMMAND": "1",
        "CEPH_REF": config.get("suite_sha1") or config.get("sha1") or config.get("branch") or config.get("tag") or "HEAD",
        "TESTDIR": testdir,
        "CEPH_ARGS": f"--cluster {cluster}",
        "CEPH_ID": id_,
        "CEPH_BASE": clone,
        "CEPH_ROOT": clone,
        "CEPH_MNT": mount,
    }
    args = ["mkdir", "-p", "--", scratch, run.Raw("&&"), "cd", "--", scratch, run.Raw("&&")]
    args += [run.Raw(f"{key}={shlex.quote(value)}") for key, value in environment.items()]
    args += [run.Raw("PATH=$PATH:/usr/sbin")]
    args += [run.Raw(f"{key}={shlex.quote(value)}") for key, value in (config.get("env") or {}).items()]
    if not config.get("no_coverage_and_limits"):
        args += ["adjust-ulimits", "ceph-coverage", f"{testdir}/archive/coverage"]
    timeout = config.get("timeout", _TIMEOUT)
    if timeout and str(timeout) != "0":
        args += ["timeout", str(timeout)]
    remote.run(args=[*args, path, *arguments], logger=logger, label=f"workunit test {name}")
    if config.get("cleanup", True):
        remote.run(args=["sudo", "rm", "-rf", "--", scratch], logger=logger, timeout=_CLEAN_SECONDS)
