"""Something that happened already and is only recorded: a handoff, a tool the provider ran."""

from collections.abc import Callable

import attrs

from comptroller.decide.lifecycle import Outcome
from comptroller.decide.settlement import Commit, End

from .call import Call, Terms
from .owner import LATE, Owner
from .receipts import CallReceipt
from .settle import Settlement


class Recorder(Owner):
    """The owner of one event: an actor without a reservation, so there is nothing to hold."""

    def __init__(self, call: Call, terms: Terms, report: Callable[[CallReceipt], None]) -> None:
        super().__init__(call, terms, report)
        self.line = attrs.evolve(
            self.line, actual=call.estimate, actual_source=call.estimate_source
        )
        self._recorded = False

    def tell(self, end: End) -> None:
        """It has happened: no end can change it."""

    def write_off(self) -> None:
        """Its line has said from the beginning that it may remain unsettled."""

    async def live(self, not_before: float) -> None:
        """Record it. `not_before` is for calls that are about to begin."""
        del not_before
        self._write(outcome=Outcome.UNSETTLED, reason=LATE)
        await self._shielded(self._record, lambda: self._recorded)

    async def _record(self) -> None:
        terms = self._terms
        settle = Settlement(
            terms.ledger, self.call, None, terms.policy.overage_policy, lambda _: None
        )
        done = await settle.charge(Commit(self.call.estimate, "estimate"), None)
        self._recorded = True
        self._write(outcome=done.outcome, charged=done.charged, reason=done.reason)
