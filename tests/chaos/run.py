"""Runs the tests that disturb the server, with the runner of tests/interop/python.

python run.py [MODULE[.CLASS[.TEST]]...]
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "interop"))

from python.run import Group, main  # noqa: E402 - the line above makes it importable

CHAOS = Group("chaos", HERE, alone=("test_processor",), first=("test_vanished", "test_acme_disk", "test_pace", "test_clock", "test_kill", "test_log"))

if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main(CHAOS, sys.argv[1:]))
