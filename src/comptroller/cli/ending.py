"""What came of a run: its exit code, what a person reads of it, and what a machine does."""

from typing import Any

import attrs
from pydantic_core import to_jsonable_python

from comptroller import Outcome, Receipt, RunCancelled
from comptroller.cli import exit_codes
from comptroller.cli import output as console
from comptroller.errors import ComptrollerError
from comptroller.runtime.outcomes import Completed, outcome_of


@attrs.define
class RunResult:
    """How a run went. `result`: the SDK's; `signal`: the one that cancelled it."""

    receipt: Receipt | None = None
    result: Any = None
    error: Exception | None = None
    signal: int | None = None


def show(ending: RunResult, *, as_json: bool, streamed: bool, wide: bool) -> int:
    """Print it: the exit code. `streamed`: the answer has been printed."""
    code, problem = _verdict(ending)
    if as_json:
        console.write_json(_plain(ending, problem))
    else:
        output = getattr(ending.result, "final_output", None)
        if output is not None and not streamed:
            console.write_text(_text(output))
        if ending.receipt is not None and _tells(ending.receipt):
            console.write(console.receipts_table([ending.receipt]), wide=wide)
            for note in console.notes(ending.receipt, problem):
                console.write(note)
    if problem is not None:
        exit_codes.complain(problem)
    return code


def _tells(receipt: Receipt) -> bool:
    """Whether any call got an answer of the ledger: else the error says it all."""
    return any(call.outcome is not Outcome.FAILED for call in receipt.calls)


def _verdict(ending: RunResult) -> tuple[int, str | None]:
    """Return the exit code, and what is to be said of it."""
    error = ending.error
    if error is None:
        waiting = [item.name or "a tool" for item in getattr(ending.result, "interruptions", [])]
        if not waiting:
            return exit_codes.DONE, None
        return (
            exit_codes.FAILED,
            f"the run waits for the approval of {', '.join(waiting)}: none can be given here",
        )
    if isinstance(error, RunCancelled) and ending.signal is not None:
        return exit_codes.SIGNALLED + ending.signal, f"{error.reason}: cancelled, and settled"
    if isinstance(error, ComptrollerError):
        return exit_codes.code_of(error) or exit_codes.FAILED, str(error)
    return exit_codes.FAILED, f"the run failed: {type(error).__name__}: {error}"


def _plain(ending: RunResult, problem: str | None) -> dict[str, Any]:
    """For machines."""
    error = ending.error
    outcome = Completed(None) if error is None else outcome_of(error)
    return {
        "status": type(outcome).__name__.lower(),
        "output": to_jsonable_python(getattr(ending.result, "final_output", None), fallback=str),
        "error": problem
        and {
            "type": type(error).__name__ if error else None,
            "message": problem,
            "reason_code": getattr(error, "reason_code", None),
        },
        "receipt": ending.receipt and plain_receipt(ending.receipt),
    }


def plain_receipt(receipt: Receipt) -> Any:
    """Return a receipt for machines; money in dollars, too."""
    return console.with_dollars(receipt.to_dict())


def _text(output: Any) -> str:
    return output if isinstance(output, str) else console.as_json(
        to_jsonable_python(output, fallback=str))  # fmt: skip
