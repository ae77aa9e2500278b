"""What an actor and the recorder of an event share: a call, its line, and a shielded life."""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import attrs

from comptroller.decide.settlement import End

from .call import Call, Terms
from .receipts import CallReceipt

LATE = "the ledger did not answer in time"


class Owner(ABC):
    """Whoever settles one call with the ledger.

    Nobody cancels an owner: it is told, and at the bound it is aborted.
    """

    def __init__(self, call: Call, terms: Terms, report: Callable[[CallReceipt], None]) -> None:
        self.call, self.line = call, first_line(call)
        self._terms, self._report = terms, report
        self._scope: anyio.CancelScope | None = None

    @abstractmethod
    def tell(self, end: End) -> None:
        """How the call ended. From anywhere."""

    @abstractmethod
    async def live(self, not_before: float) -> None:
        """The whole life. `not_before`: a cool-down that the ledger imposed, on anyio's clock."""

    def abort(self) -> None:
        """The bounded wait is over: whatever the ledger is asked now is given up. At home."""
        if self._scope is not None:
            self._scope.cancel("the bound for settling is over")

    @abstractmethod
    def write_off(self) -> None:
        """Its task is gone, or hangs in a ledger that ignores its cancellation: end its line."""

    async def _shielded(
        self, step: Callable[[], Awaitable[None]], ended: Callable[[], bool]
    ) -> None:
        """Take steps until it has `ended` or is aborted.

        A native `task.cancel()` (an asyncio loop that ends cancels every task) ignores shields:
        the step that it cut off is taken again. That is safe, since each message has its key.
        """
        while not ended():
            try:
                with anyio.CancelScope(shield=True) as self._scope:
                    await step()
            except anyio.get_cancelled_exc_class():
                pass  # not ours, and it comes once: see above
            if self._scope is not None and self._scope.cancel_called:
                return

    def _write(self, **changes: Any) -> None:
        self.line = attrs.evolve(self.line, **changes)
        self._report(self.line)


def first_line(call: Call) -> CallReceipt:
    """The line of a call that has just begun to ask."""
    draft = call.draft
    return CallReceipt(
        id=call.id,
        episode=draft.episode,
        kind=call.action.kind,
        agent=draft.agent,
        name=draft.name,
        attempt=draft.attempt,
        reserved=call.estimate,
        estimate_source=call.estimate_source,
        started=time.time(),
    )
