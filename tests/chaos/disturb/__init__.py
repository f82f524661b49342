"""What the tests share: a server that can be disturbed, and the disturbances. Server and clients are those of tests/interop/python."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "interop/python"))
