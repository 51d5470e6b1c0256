"""From a suite to its jobs, by teuthology's own matrix and merge: `expand.py SUITES SUITE SEED [OVERRIDE...]` prints them as JSON.

A process of its own, since to import teuthology is to have its patched threads.
"""

import json
import logging
import pathlib
import random
import sys

import teuthology
import yaml
from teuthology.misc import deep_merge
from teuthology.suite.build_matrix import build_matrix
from teuthology.suite.merge import config_merge


def main():
    """Prints a list of {description, paths, config}."""
    suites, suite, seed = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    teuthology.log.setLevel(logging.WARNING)
    random.seed(seed)
    matrix = build_matrix(str(suites / suite), seed=seed)
    jobs = [{"description": description, "paths": paths, "config": config} for description, paths, config in config_merge(matrix, suite_name=suite, seed=seed)]
    for path in sys.argv[4:]:
        fragment = yaml.safe_load(pathlib.Path(path).read_text())
        for job in jobs:
            deep_merge(job["config"], fragment)
    json.dump(jobs, sys.stdout, default=str)


main()
