"""What a run may still begin: its limits, the caps of the latest grant, and what it has used."""

import anyio
from runcycles import Caps, Unit

from comptroller.core.limits import LimitBreach, UsageTotals, breach
from comptroller.policy import Limits
from comptroller.receipts import CallReceipt
from comptroller.runtime.call import Call, CallGrant

_MAX_COOLDOWN_MS = 86_400_000
"""A day, as long as the longest lease: a mangled cool-down must not hold a run for ever."""


class LimitTracker:
    """Counts what a run uses, and says no in time. Used at home only.

    Attributes:
        not_before: the end of a cool-down that the ledger imposed, on anyio's clock.
        over: that the run's time is over, where that does not end it (a dry run).
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tally = UsageTotals()
        self._caps: Caps | None = None
        self._steps_left: int | None = None
        self.not_before = 0.0
        self.over: LimitBreach | None = None

    def breach(self, call: Call) -> LimitBreach | None:
        """Why this call may not even be asked for, or None."""
        draft = call.draft
        return self.over or breach(
            draft.kind, draft.name, call.estimate, self._tally, self._limits,
            self._caps, self._steps_left,
        )  # fmt: skip

    def began(self, call: Call) -> None:
        """Count a call, and what it wants to reserve: the ledger is being asked."""
        draft = call.draft
        self._tally.calls.update((draft.kind, f"{draft.kind}:{draft.name}"))
        self._tally.spend[Unit(call.estimate.unit)] += call.estimate.amount
        if self._steps_left is not None:
            self._steps_left -= 1

    def happened(self, event: CallReceipt) -> None:
        """Something that nobody was asked about: what it cost is spent."""
        self._spent(event)

    def granted(self, call: Call, grant: CallGrant) -> None:
        """Keep the caps of the latest LLM grant, which bind what follows it."""
        if call.draft.kind != "llm" or grant.reservation_id is None:
            return
        caps = self._caps = grant.caps
        self._steps_left = caps.max_steps_remaining if caps else None
        if caps is not None and caps.cooldown_ms:
            cooldown_ms = min(caps.cooldown_ms, _MAX_COOLDOWN_MS)
            self.not_before = anyio.current_time() + cooldown_ms / 1000

    def ended(self, line: CallReceipt) -> None:
        """Count what a call really cost, in place of what it had reserved."""
        self._tally.spend[Unit(line.reserved.unit)] -= line.reserved.amount
        self._spent(line)

    def _spent(self, line: CallReceipt) -> None:
        if line.actual is not None:
            self._tally.spend[Unit(line.actual.unit)] += line.actual.amount
        if line.tokens is not None:
            self._tally.tokens += line.tokens.total
