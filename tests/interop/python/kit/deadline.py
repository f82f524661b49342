"""Deadline: no wait without an end."""

import time

# The default deadline of every wait.
DEADLINE = 20.0
_PAUSE = 0.02


class Late(AssertionError):
    """Something did not happen in time."""


def until(ask, what, deadline=DEADLINE):
    """Asks again and again until the answer is true, and returns it; fails with what was waited for."""
    end = time.monotonic() + deadline
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Late(f"expected {what() if callable(what) else what} within {deadline} s")
        time.sleep(_PAUSE)
