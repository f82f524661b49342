"""Clock: a wall clock that a file moves in a running process, by libfaketime. The monotonic clock stays the kernel's."""

from glob import glob
from pathlib import Path


class Clock:
    """Start the server with `environment`; `move` then takes effect at its next look at the clock."""

    def __init__(self, directory):
        self._file = Path(directory) / "offset"
        self.move("+0")
        found = glob("/usr/lib/*/faketime/libfaketimeMT.so.1") + glob("/usr/lib/faketime/libfaketimeMT.so.1")
        if not found:
            raise AssertionError("expected libfaketimeMT.so.1 of the package faketime, found none")
        self.environment = {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, offset):
        """`offset`: from the true time, such as "+1d", "-1d", "+0"."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{offset}\n", encoding="utf-8")
        draft.replace(self._file)
