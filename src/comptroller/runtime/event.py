"""Something that happened already and is only recorded: a handoff, a tool the provider ran, what a
tool has used of a model.
"""

from collections.abc import Callable

import attrs
from runcycles import CyclesMetrics

from comptroller.decide.lifecycle import Outcome
from comptroller.decide.pricing import TokenCount
from comptroller.decide.settlement import Commit, End
from comptroller.errors import ComptrollerError

from .call import Call, Terms
from .owner import Owner
from .receipts import CallReceipt
from .settle import Settled, Settlement


class Recorder(Owner):
    """The owner of one event: an actor without a reservation, so there is nothing to hold."""

    def __init__(
        self,
        call: Call,
        terms: Terms,
        report: Callable[[CallReceipt], None],
        used: TokenCount | None = None,
    ) -> None:
        super().__init__(call, terms, report)
        self.line = attrs.evolve(
            self.line, actual=call.estimate, actual_source=call.estimate_source, tokens=used
        )
        self._recorded = False
        self._spent = Commit(call.estimate, call.estimate_source)
        self._metrics = _metrics(call, used)
        policy = terms.policy
        self._settlement = Settlement(
            terms.ledger, call, None, policy.overage_policy, terms.outbox, lambda _: None
        )

    def tell(self, end: End) -> None:
        """It has happened: no end can change it."""

    def _over(self) -> bool:
        return self._recorded

    async def _step(self, not_before: float) -> None:
        del not_before  # it is for calls that are about to begin
        if self._terms.policy.dry_run:
            self._finish(Settled(Outcome.UNRESERVED, None, "dry run"))
        else:
            self._finish(await self._settlement.charge(self._spent, self._metrics))

    def _give_up(self, why: ComptrollerError) -> None:
        if not self._recorded:
            kept = self._settlement.hand_over(self._spent, self._metrics, str(why))
            self._finish(kept or Settled(Outcome.UNSETTLED, None, str(why)))

    def _finish(self, done: Settled) -> None:
        self._recorded = True
        self._write(outcome=done.outcome, charged=done.charged, reason=done.reason)


def _metrics(call: Call, used: TokenCount | None) -> CyclesMetrics | None:
    if used is None:
        return None
    return CyclesMetrics(
        tokens_input=used.input, tokens_output=used.output, model_version=call.draft.name[:128]
    )
