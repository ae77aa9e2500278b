"""Faults for the n-th call: `ledger.plan(deny_at(2), lose_answer(1))`."""

from collections import defaultdict

import attrs

from comptroller.arguments import at_least
from comptroller.ledger.interface import Ledger

from .faults import Fault, lost_answer, refused
from .ledgers import FailingLedger
from .recording import Request, checked_verbs


@attrs.frozen
class Planned:
    """What befalls one message.

    Attributes:
        verb: of the ledger.
        number: which of this verb's messages, counted from 1; a retry is no new message.
        fault: what happens to it.
        always: also to its retries; otherwise to its first attempt only.
    """

    verb: str
    number: int = attrs.field(validator=at_least(1))
    fault: Fault
    always: bool = False


def deny_at(number: int) -> Planned:
    """The n-th call that asks is denied, as by a budget that is used up."""
    return Planned("reserve", number, refused(409, "BUDGET_EXCEEDED"), always=True)


def lose_answer(number: int, *, verb: str = "commit") -> Planned:
    """The n-th commit (or other `verb`) is done, and its first answer is lost."""
    return Planned(verb, number, lost_answer())


class PlannedLedger(FailingLedger):
    """Does what `inner` does, but for what was planned.

    Args:
        inner: the ledger that does the work.
        planned: see `plan`.
    """

    def __init__(self, inner: Ledger, *planned: Planned) -> None:
        super().__init__(inner)
        self._planned: list[Planned] = []
        self._messages: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.plan(*planned)

    def plan(self, *planned: Planned) -> None:
        """Add to the plan. Messages are counted from this ledger's first."""
        checked_verbs(each.verb for each in planned)
        self._planned += planned

    def messages(self, verb: str) -> int:
        """How many of this verb there were, retries not counted."""
        return len(self._messages[checked_verb(verb)])

    def _fault(self, request: Request) -> Fault | None:
        seen = self._messages[request.verb]
        message = _message(request, len(seen))
        first = message not in seen
        number = seen.setdefault(message, len(seen) + 1)
        return next(
            (
                each.fault
                for each in self._planned
                if (each.verb, each.number) == (request.verb, number) and (first or each.always)
            ),
            None,
        )


def checked_verb(verb: str) -> str:
    """`verb`. Raises ValueError where no ledger has it."""
    checked_verbs([verb])
    return verb


def _message(request: Request, seen: int) -> str:
    """What tells a message from others. A denial that is asked once more is the same call's."""
    if request.key is None:
        return str(seen)
    return (
        request.key.rpartition("/")[0] or request.key if request.verb == "reserve" else request.key
    )
