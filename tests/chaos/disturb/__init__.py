"""What the tests share: a server that can be disturbed, and the disturbances. Server and clients are those of tests/interop/python."""

import sys
from pathlib import Path

# Behind this directory: both have a test_reload.
sys.path.append(str(Path(__file__).resolve().parents[2] / "interop/python"))
