"""Runs every test module in a process of its own, several at a time: a module spends most of its time waiting.

A failed test runs again by itself once all modules have ended; if it passes then, it is listed as flaky and counts as passed.

python run.py [MODULE[.CLASS[.TEST]]...]
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 3
SECONDS_MAX = 900

# How many failed tests to run again. If more fail, the cause is not a race.
AGAIN_MAX = 20


@dataclass(frozen=True)
class Group:
    """A directory of test modules, with the name of its group in tests/run."""

    name: str
    directory: Path
    alone: tuple = ()  # modules that keep the processors busy; each runs with no other beside it
    first: tuple = ()  # the longest modules; they start first, so that none of them runs last

    def modules(self):
        found = sorted(path.stem for path in self.directory.glob("test_*.py"))
        return sorted(found, key=lambda name: self.first.index(name) if name in self.first else len(self.first))


PYTHON = Group(
    "python",
    Path(__file__).parent,
    alone=("test_login",),
    first=("test_django", "test_mysql", "test_database_away", "test_layer_secure", "test_layer_django", "test_layer_away", "test_compression"),
)


def run(group, what):
    """Runs a module, a class or a test; returns its name, exit code, output and duration."""
    began = time.monotonic()
    command = [sys.executable, "-m", "unittest", "--verbose", what]
    try:
        done = subprocess.run(command, cwd=group.directory, capture_output=True, text=True, errors="replace", timeout=SECONDS_MAX)
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        code, said = 1, f"{(late.output or b'').decode(errors='replace')}\n{what} was ended after {SECONDS_MAX} s"
    return what, code, said, time.monotonic() - began


def failed_tests(said):
    """Returns the failed tests by the names that unittest accepts, each once even if several of its subtests failed."""
    found = {}
    for test, place in re.findall(r"^(?:FAIL|ERROR|UNEXPECTED SUCCESS): (\w+) \(([\w.]+)\)", said, re.MULTILINE):
        if test in ("setUpClass", "tearDownClass", "setUpModule", "tearDownModule"):
            found[place] = True
        elif place.startswith("unittest.loader."):
            found[test] = True  # a module that does not import
        else:
            found[place if place.endswith(f".{test}") else f"{place}.{test}"] = True  # Python 3.10 prints only the class
    return list(found)


def ran_tests(said):
    return sum(map(int, re.findall(r"^Ran (\d+) test", said, re.MULTILINE)))


def show(what, said, seconds):
    print(f"--- {what}, {seconds:.0f} s\n{said}", flush=True)


def run_again(group, tests):
    """Runs each test by itself; returns a line for each, and the number that failed twice."""
    lines, failed = [], 0
    for test in tests:
        _, code, said, seconds = run(group, test)
        show(f"again: {test}", said, seconds)
        if code == 0 and ran_tests(said):
            lines.append(f"FLAKY {group.name} {test}: failed, then passed")
        else:
            lines.append(f"FAILED {group.name} {test}: failed twice")
            failed += 1
    return lines, failed


def main(group, asked):
    ran = failed = 0
    again = []
    asked = asked or group.modules()
    alone = [name for name in asked if name.split(".")[0] in group.alone]
    together = [name for name in asked if name not in alone]
    for at_once, modules in ((1, alone), (AT_ONCE, together)):
        with ThreadPoolExecutor(at_once) as pool:
            for done in as_completed([pool.submit(run, group, module) for module in modules]):
                module, code, said, seconds = done.result()
                show(module, said, seconds)
                ran += ran_tests(said)
                tests = failed_tests(said) if code else []
                again += tests
                failed += 1 if code and not tests else 0  # crashed, or timed out
    if len(again) > AGAIN_MAX:
        print(f"{len(again)} tests failed, more than {AGAIN_MAX}: not run again")
        lines, failed_again = [], len(again)
    else:
        lines, failed_again = run_again(group, again)
    print(*lines, f"=== Ran {ran} tests, {failed + failed_again} failed", sep="\n", flush=True)
    return 1 if failed or failed_again or not ran else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main(PYTHON, sys.argv[1:]))
