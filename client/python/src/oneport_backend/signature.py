"""The signature of a request: `Oneport-Signature: t=UNIX,v1=HEX`, with a `v1` for each secret."""

import hmac
import time
from collections.abc import Iterable

Secret = str | bytes
Secrets = Secret | Iterable[Secret]

# How many seconds a request may be old, or the clocks may differ.
AGE_MAX = 300


def is_signed(signature: str | None, body: bytes, secret: Secrets, *, age_max: float = AGE_MAX) -> bool:
    """Returns whether a request comes from Oneport and is at most minutes old.

    `signature` is the header field `Oneport-Signature`, None if there is none. `secret` may be several while it is being
    changed. Anything that is no signature is not an error but False; an empty secret is an error.
    """
    keys = keys_of(secret)
    if not (signature or "").startswith("t="):
        return False
    at, *given = (signature or "")[2:].split(",v1=")
    # Digits alone, and few: int() takes more than that.
    if not (at.isascii() and at.isdigit() and len(at) <= 12) or abs(time.time() - int(at)) >= age_max:
        return False
    wanted = [_digest(at, body, key) for key in keys]
    # All are compared, so that the time does not tell which one it was.
    found = [hmac.compare_digest(one.encode(), other.encode("utf-8", "replace")) for one in wanted for other in given]
    return any(found)


def sign(body: bytes, secret: Secrets, *, at: int | None = None) -> str:
    """Returns the header field of a request with this body, for a test of your own backend."""
    when = str(int(time.time()) if at is None else at)
    return ",".join([f"t={when}", *(f"v1={_digest(when, body, key)}" for key in keys_of(secret))])


def keys_of(secret: Secrets) -> list[bytes]:
    """Returns each secret as bytes."""
    secrets = [secret] if isinstance(secret, (str, bytes)) else list(secret)
    keys = [each.encode() if isinstance(each, str) else each for each in secrets]
    if not keys or not all(keys):
        raise ValueError("expected a secret, found an empty one" if keys else "expected a secret, found none")
    return keys


def _digest(at: str, body: bytes, key: bytes) -> str:
    return hmac.new(key, at.encode() + b"." + body, "sha256").hexdigest()
