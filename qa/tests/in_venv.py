"""Imported first by a test that needs teuthology: goes on in qa/run's environment, whichever Python it was started with."""

import os
import pathlib
import sys

QA = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(QA / "lib"), str(QA.parent / "tools" / "lib")]
from teuth import venv  # noqa: E402

_python = venv.python()
if pathlib.Path(sys.prefix) != _python.parents[1]:
    os.environ.update(venv.environment())
    os.execv(_python, [str(_python), "-Bs", *sys.argv])
