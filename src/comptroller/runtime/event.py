"""Something that happened already and is only recorded: a handoff, a tool the provider ran."""

from collections.abc import Callable
from typing import Any

import anyio
import attrs

from ..decide.lifecycle import Outcome
from ..decide.settlement import Commit, End
from .actor import first_line
from .call import Call, Terms
from .receipts import CallReceipt
from .settle import Settlement


class Recorder:
    """The owner of one event: an actor without a reservation, so there is nothing to hold."""

    def __init__(self, call: Call, terms: Terms, report: Callable[[CallReceipt], None]) -> None:
        self.call, self._terms, self._report = call, terms, report
        self.line = attrs.evolve(
            first_line(call), actual=call.estimate, actual_source=call.estimate_source
        )
        self._scope: anyio.CancelScope | None = None

    def tell(self, end: End) -> None:
        """It has happened: no end can change it."""

    def abort(self) -> None:
        """The bounded wait is over: the ledger is not asked any longer."""
        if self._scope is not None:
            self._scope.cancel("the bound for settling is over")

    async def live(self, not_before: float) -> None:
        """Record it. `not_before` is for calls that are about to begin."""
        del not_before
        self._write(outcome=Outcome.UNSETTLED, reason="the ledger did not answer in time")
        with anyio.CancelScope(shield=True) as self._scope:
            settle = Settlement(
                self._terms.ledger,
                self.call,
                None,
                self._terms.policy.overage_policy,
                lambda then: None,
            )
            done = await settle.charge(Commit(self.call.estimate, "estimate"), None)
            self._write(outcome=done.outcome, charged=done.charged, reason=done.reason)

    def _write(self, **changes: Any) -> None:
        self.line = attrs.evolve(self.line, **changes)
        self._report(self.line)
