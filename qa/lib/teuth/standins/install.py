"""Stand-in for teuthology's task `install`: this machine's packages are there already, and it says which are not.

On a lab the task installs Ceph's packages and those that a fragment names. Here a job runs with what the machine has (qa/run
installs the groups of tools/lib/packages.py before the first job), so that jobs do not change the machine under each other.
"""

import contextlib
import logging
import subprocess

import packages
from teuthology import misc
from teuthology.exceptions import ConfigError

log = logging.getLogger(__name__)

# What teuthology's own task reads, of which here only the lists of packages have a meaning.
KEYS = {
    "branch", "cleanup", "debuginfo", "downgrade_packages", "enable_coprs", "exclude_packages", "extra_packages", "extra_system_packages",
    "extras", "flavor", "install_ceph_packages", "packages", "project", "repos", "repos_only", "sha1", "tag", "wait_for_package",
}  # fmt: skip


@contextlib.contextmanager
def task(ctx, config):
    """Checks that the packages are there; raises RuntimeError with the line that installs what is not."""
    config = misc.deep_merge({}, config or {})
    if not isinstance(config, dict):
        raise ConfigError("task install only supports a dictionary for configuration")
    overrides = ctx.config.get("overrides", {}).get("install", {})
    misc.deep_merge(config, overrides.get(config.get("project", "ceph"), {}))
    if "extra_system_packages" in overrides:
        names = _debs(config.get("extra_system_packages")) + _debs(overrides["extra_system_packages"])
        config["extra_system_packages"] = {"deb": names}
    unknown = sorted(set(config) - KEYS)
    if unknown:
        raise ConfigError(f"task install does not know {', '.join(unknown)}")
    missing = packages.missing(packages.CLUSTER)
    for key in ("packages", "extra_packages", "extra_system_packages"):
        missing += [name for name in _debs(config.get(key)) if not _installed(name)]
    if missing:
        raise RuntimeError(f"missing packages: {' '.join(missing)}; install them: apt-get install --yes --no-install-recommends {' '.join(missing)}")
    log.info("all packages are there")
    yield


def _debs(wanted):
    """The Debian names of a list of packages, which may be one for each kind of system."""
    if isinstance(wanted, dict):
        unknown = sorted(set(wanted) - {"deb", "rpm"})
        if unknown:
            raise ConfigError(f"packages for {', '.join(unknown)}: there are deb and rpm")
        wanted = wanted.get("deb")
    if not isinstance(wanted, list | None):
        raise ConfigError(f"packages are a list, or one for each of deb and rpm, not {wanted!r}")
    return wanted or []


def _installed(name):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", name], capture_output=True, text=True)
    return done.stdout == "installed"
