#!/usr/bin/python3 -Bs
"""Every job of every suite, before any runs: it expands, its tasks and workunits exist, and the tasks would take what it gives them."""

import in_venv  # isort: skip  goes on in the environment that has teuthology
import collections
import copy
import functools
import itertools
import os
import shlex
import sys
import types
import unittest

import yaml
from teuth import QA, ROOT, TEUTH, TOOLS
from teuthology import misc, run_tasks
from teuthology.exceptions import ConfigError
from teuthology.orchestra.cluster import Cluster
from teuthology.suite.build_matrix import build_matrix
from teuthology.suite.merge import config_merge

sys.path[:0] = [str(TOOLS), str(QA), str(TEUTH / "standins")]
import cluster  # noqa: E402
import install  # noqa: E402
import network  # noqa: E402

sys.modules["teuthology.task.install"] = install
from tasks import ceph, lus_failover, lus_multipath, lus_stale_write, lusd, workunit  # noqa: E402

SUITES = QA / "suites"
SEEDS = (1, 2, 3, 11, 2026)
# Tasks that hold others: inline, or as the name of a section of the job.
HOLDERS = ("parallel", "sequential", "full_sequential", "full_sequential_finally")


@functools.cache
def jobs(seed):
    """(description, fragments, configuration) of every job."""
    return list(config_merge(build_matrix(str(SUITES / "lus"), seed=seed), suite_name="lus", seed=seed))


def tasks_of(config, entries):
    """(name, configuration) of each task, those inside others too."""
    for entry in entries:
        if isinstance(entry, str):
            section = config[entry]
            yield from tasks_of(config, section if isinstance(section, list) else [section])
            continue
        ((name, inner),) = entry.items()
        yield name, inner
        if name in HOLDERS:
            yield from tasks_of(config, inner)


def context_of(config):
    """As much of a job's context as the checks of tasks ask for."""
    cluster = Cluster(remotes=[(f"local{number}", roles) for number, roles in enumerate(config["roles"], 1)])
    return types.SimpleNamespace(cluster=cluster, config=config)


class EveryJob(unittest.TestCase):
    """Of every seed."""

    def each(self, check):
        """Calls `check(config)` with a copy of every job's configuration."""
        for seed in SEEDS:
            for description, _, config in jobs(seed):
                with self.subTest(seed=seed, job=description):
                    check(copy.deepcopy(config))

    def each_task(self, check, *names):
        """Calls `check(config, name, inner)` for every task, or every one of these names."""

        def check_all(config):
            for name, inner in tasks_of(config, config["tasks"]):
                if not names or name in names:
                    check(config, name, inner)

        self.each(check_all)

    def test_there_are_jobs_and_no_two_are_the_same(self):
        for seed in SEEDS:
            counts = collections.Counter(description for description, _, _ in jobs(seed))
            self.assertTrue(counts)
            self.assertEqual([description for description, count in counts.items() if count > 1], [])

    def test_every_suite_has_a_job(self):
        found = {description.split("/")[1] for description, _, _ in jobs(1)}
        self.assertEqual(found, {path.name for path in (SUITES / "lus").iterdir() if not path.name.startswith(".")})

    def test_every_task_exists(self):
        self.each_task(lambda _config, name, _inner: self.assertTrue(callable(run_tasks.get_task(name.replace("-", "_"))), name))

    def test_every_workunit_exists_and_is_executable(self):
        def check(_config, _name, inner):
            folder = ROOT / inner.get("basedir", "qa/workunits")
            for spec in itertools.chain.from_iterable(inner["clients"].values()):
                path = folder / shlex.split(spec)[0]
                found = [path] if path.is_file() else list(path.glob("**/*"))
                self.assertTrue(any(entry.is_file() and os.access(entry, os.X_OK) for entry in found), spec)

        self.each_task(check, "workunit")

    def test_roles_that_tasks_name_are_there(self):
        def check(config, name, inner):
            there = {role for roles in config["roles"] for role in roles}
            named = []
            if name == "workunit":
                named = inner["clients"]
            elif name == "exec":
                named = inner
            elif name.startswith("lusd."):
                named = [role if "." in role else f"lus.{role}" for role in inner or []]
            elif name.startswith("ceph."):
                named = inner if isinstance(inner, list) else (inner or {}).get("daemons", [])
            named = {role for role in named if role not in ("all", "all-roles", "all-hosts") and not role.endswith(".*")}
            self.assertEqual(named - there, set(), name)

        self.each_task(check)

    def test_workunits_get_what_the_task_takes(self):
        self.each_task(lambda config, _name, inner: workunit._checked(context_of(config), inner), "workunit")

    def test_clusters_can_be_made_here(self):
        def check(config, _name, inner):
            ceph._check_keys(misc.deep_merge(inner or {}, config.get("overrides", {}).get("ceph", {})))
            self.assertGreater(ceph._count_osds(context_of(config)), 0)

        self.each_task(check, "ceph")

    def test_daemons_get_what_the_task_takes(self):
        def check(config, _name, inner):
            ctx = context_of(config)
            merged = lusd._merged(ctx, inner)
            roles = lusd._roles(ctx, merged)
            self.assertTrue(roles)
            # Whoever runs it says how.
            merged["hosts"] = {id_: {"cut": ["true"], "heal": ["true"]} for id_ in roles}
            lusd._require_hosts(ctx, merged, roles)

        self.each_task(check, "lusd")

    def test_faults_are_what_the_task_takes(self):
        self.each_task(lambda config, _name, inner: lus_failover._merged(context_of(config), inner), "lus_failover")
        self.each_task(lambda config, _name, inner: lus_multipath._merged(context_of(config), inner), "lus_multipath")

    def test_kinds_of_stale_writes_are_what_the_task_takes(self):
        self.each_task(lambda config, _name, inner: lus_stale_write._merged(context_of(config), inner), "lus_stale_write")


class Daemons(unittest.TestCase):
    """The task knows nothing of tools/vstart, which gives the same rights."""

    def test_caps_are_those_of_vstart(self):
        self.assertEqual((lusd.CAPS_MON, lusd.CAPS_MGR), (cluster.CAPS_MON, cluster.CAPS_MGR))

    def test_networks_are_those_of_vstart(self):
        self.assertEqual(lusd.NETWORKS, network.CUTS)

    def require_hosts(self, roles, hosts):
        ctx = context_of({"roles": roles})
        config = dict(lusd.DEFAULTS, cuts=True, hosts=hosts)
        lusd._require_hosts(ctx, config, lusd._roles(ctx, config))

    def test_nobody_is_cut_off_with_a_daemon_and_it_is_known_how(self):
        how = {"cut": ["cut"], "heal": ["heal"]}
        self.require_hosts([["mon.a"], ["lus.a"]], {"a": how})
        for roles, hosts in (
            ([["mon.a", "lus.a"]], {"a": how}),
            ([["mon.a"], ["lus.a", "lus.b"]], {"a": how, "b": how}),
            ([["mon.a"], ["lus.a"]], {}),
            ([["mon.a"], ["lus.a"]], {"a": {"cut": ["cut"]}}),
            ([["mon.a"], ["lus.a"]], {"a": {**how, "unknown": []}}),
        ):
            with self.assertRaises(ConfigError):
                self.require_hosts(roles, hosts)

    def test_portals_of_daemons_of_one_machine_do_not_overlap(self):
        ctx = context_of({"roles": [["mon.a", "lus.a", "lus.b"], ["lus.c"]]})
        ports = {id_: port for id_, (_, port) in lusd._roles(ctx, dict(lusd.DEFAULTS, port_base=5000, portals=3)).items()}
        self.assertEqual(ports, {"a": 5000, "b": 5003, "c": 5000})

    def test_each_address_of_a_daemon_has_its_portals(self):
        config = dict(lusd.DEFAULTS, portals=2, addresses=["::1"])
        self.assertEqual(lusd._portals(config, "192.0.2.1", 5000), ["192.0.2.1:5000", "192.0.2.1:5001", "[::1]:5000", "[::1]:5001"])
        self.assertEqual(lusd._portals(lusd.DEFAULTS, "2001:db8::1", 5000), ["[2001:db8::1]:5000"])

    def test_a_daemon_that_nobody_can_cut_off_is_not(self):
        ctx = types.SimpleNamespace(lusd={"a": {"host": {}}})
        for id_, where in (("a", "ceph"), ("a", "nowhere"), ("b", "ceph")):
            with self.assertRaises(ConfigError):
                lusd.cut_daemon(ctx, id_, where)


class Folders(unittest.TestCase):
    """The format's own rules, which no expansion tells."""

    def test_every_folder_has_its_link(self):
        for folder in (SUITES, *(path for path in SUITES.glob("**/") if not path.is_symlink())):
            self.assertEqual((folder / ".qa").resolve(), QA, folder)

    def test_every_fragment_describes_itself(self):
        for path in SUITES.glob("**/*.yaml"):
            meta = yaml.safe_load(path.read_text()).get("meta")
            self.assertTrue(meta and any(entry.get("desc") for entry in meta), path)


if __name__ == "__main__":
    unittest.main()
