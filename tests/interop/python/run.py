"""Runs every test module in a process of its own, some at a time: most of a module's time is waiting.

python run.py [MODULE...]
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).parent
AT_ONCE = 3
SECONDS_MAX = 900

# What makes the processors busy for long has them to itself.
ALONE = ("test_login",)

# The longest begin first, so that none is left over at the end.
FIRST = ("test_django", "test_database_away", "test_layer_secure", "test_layer_django", "test_layer_away", "test_compression")


def modules():
    found = sorted(path.stem for path in HERE.glob("test_*.py"))
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def run(module):
    """Returns the module, how its tests ended, what they said, and how long it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "unittest", "--verbose", module]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, errors="replace", timeout=SECONDS_MAX)
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        code, said = 1, f"{(late.output or b'').decode(errors='replace')}\n{module} was ended after {SECONDS_MAX} s"
    return module, code, said, time.monotonic() - began


def main(asked):
    ran = failed = 0
    asked = asked or modules()
    groups = [(1, [module for module in asked if module in ALONE]), (AT_ONCE, [module for module in asked if module not in ALONE])]
    for at_once, group in groups:
        with ThreadPoolExecutor(at_once) as pool:
            for done in as_completed([pool.submit(run, module) for module in group]):
                module, code, said, seconds = done.result()
                print(f"--- {module}, {seconds:.0f} s\n{said}", flush=True)
                ran += sum(map(int, re.findall(r"^Ran (\d+) test", said, re.MULTILINE)))
                counted = "".join(re.findall(r"^FAILED \(.*\)$", said, re.MULTILINE))
                bad = sum(map(int, re.findall(r"(?:failures|errors)=(\d+)", counted)))
                failed += bad or (1 if code else 0)
    print(f"=== Ran {ran} tests, {failed} failed", flush=True)
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main(sys.argv[1:]))
