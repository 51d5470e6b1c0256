"""Writes JUnit XML: `junit.py FILE`, with the cases as JSON on stdin. A process in the environment that has junitparser."""

import json
import sys

from junitparser import Failure, JUnitXml, TestCase, TestSuite


def main():
    """One suite, one case for each job."""
    wanted = json.load(sys.stdin)
    suite = TestSuite(wanted["name"])
    for entry in wanted["cases"]:
        case = TestCase(entry["name"], entry["classname"], entry["time"])
        if entry["failure"]:
            failure = Failure(entry["failure"])
            failure.text = entry["text"]
            case.result = [failure]
        suite.add_testcase(case)
    xml = JUnitXml("qa/run")
    xml.add_testsuite(suite)
    xml.write(sys.argv[1], pretty=True)


main()
