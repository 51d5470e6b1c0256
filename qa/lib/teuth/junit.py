"""Writes JUnit XML: `junit.py FILE`, with the cases as JSON on stdin. A process in the environment that has junitparser."""

import json
import re
import sys

from junitparser import Failure, JUnitXml, TestCase, TestSuite

# What XML 1.0 cannot hold: a boot loader's console is full of it.
FOREIGN = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def main():
    """One suite, one case for each job."""
    wanted = json.load(sys.stdin)
    suite = TestSuite(wanted["name"])
    for entry in wanted["cases"]:
        case = TestCase(entry["name"], entry["classname"], entry["time"])
        if entry["failure"]:
            failure = Failure(FOREIGN.sub("?", entry["failure"]))
            failure.text = FOREIGN.sub("?", entry["text"])
            case.result = [failure]
        suite.add_testcase(case)
    xml = JUnitXml("qa/run")
    xml.add_testsuite(suite)
    xml.write(sys.argv[1], pretty=True)


main()
