"""How a started run ended: one of four values, never an exception until somebody asks for it."""

from typing import Any

from comptroller._frozen import frozen_record
from comptroller.errors import CallDenied, RunCancelled


@frozen_record
class Completed:
    """It returned `result` (an `agents.RunResult`)."""

    result: Any


@frozen_record
class Denied:
    """The budget, a limit, or a cap said no."""

    error: CallDenied


@frozen_record
class Failed:
    """Anything else: the model's, the ledger's, or the caller's own error."""

    error: Exception


@frozen_record
class Cancelled:
    """It was cancelled; `error.reason` says why."""

    error: RunCancelled


RunOutcome = Completed | Denied | Failed | Cancelled


def outcome_of(error: Exception) -> Denied | Failed | Cancelled:
    """Return the outcome of a run that raised."""
    if isinstance(error, CallDenied):
        return Denied(error)
    return Cancelled(error) if isinstance(error, RunCancelled) else Failed(error)
