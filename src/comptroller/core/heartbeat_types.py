"""The words of a heartbeat: what an extend's answer may be, and what follows on it."""

from math import ceil, inf
from typing import Final, Protocol

import attrs

from comptroller.errors import ComptrollerError, LedgerError

SHORTEST_BEAT_MS: Final = 500
"""Half the shortest lease of the protocol (ttl_ms is at least 1 000): beating faster is a loop."""


class LeaseResponse(Protocol):
    """What is read of a schema-valid success of a create or an extend."""

    @property
    def remaining_ttl_ms(self) -> int | None:
        """What was left of the lease while the answer was made; None from older ledgers."""

    @property
    def expires_at_ms(self) -> int | None:
        """When the lease ends, by the ledger's clock."""


@attrs.frozen
class Transient:
    """No answer, 5xx, or a 2xx that is not a valid success: it may have been applied."""

    reason: str


@attrs.frozen
class Throttled:
    """429. `retry_after_ms` is None where the answer gave none, or none that can be used."""

    retry_after_ms: int | None


@attrs.frozen
class Permanent:
    """Any other answer: asking again would not change it."""

    reason: str


Failure = Transient | Throttled | Permanent

_NO_ANSWER, _TOO_MANY = 100, 429
_SUCCESSES, _SERVER_ERRORS = range(200, 300), range(500, 600)


def failure_of(error: ComptrollerError) -> Failure:
    """Return what `error`, which an extension was answered with, means for the lease."""
    if not isinstance(error, LedgerError):
        return Permanent(type(error).__name__)
    status, error_code = error.status, error.error_code
    if status == _TOO_MANY:
        return Throttled(error.retry_after_ms)
    if status < _NO_ANSWER:
        return Transient("no answer")
    if status in _SUCCESSES:
        return Transient(f"an answer {status} that is no valid success")
    named = f"{status} {error_code}" if error_code else str(status)
    return Transient(named) if status in _SERVER_ERRORS else Permanent(named)


@attrs.frozen
class ExtendAfter:
    """Extend by `ttl_ms`, `delay_seconds` after the answer, or the failure, that led to this.

    Attributes:
        delay_seconds: counted from the `received` or `now` that the lease was given.
        same_key: repeat the last attempt under its key; else this is a new extension.
        notice: what its owner should know, None if nothing.
    """

    delay_seconds: float
    same_key: bool = False
    notice: str | None = None


@attrs.frozen
class Stop:
    """No more beats; the call goes on, and its lease runs out by itself."""

    reason: str


Step = ExtendAfter | Stop


def elapsed_ms(start: float, end: float) -> float:
    """Milliseconds from `start` to `end`, rounded up; infinite where that cannot be known."""
    spent = (end - start) * 1000
    return ceil(spent) if 0 <= spent < inf else inf


def why(failure: Transient | Throttled) -> str:
    """Return what a person reads of `failure`."""
    if isinstance(failure, Transient):
        return failure.reason
    asked = failure.retry_after_ms
    return "throttled" if asked is None else f"throttled for {asked} ms"
