"""The life of one call, as data: which state follows on which event.

The actor moves only along `TRANSITIONS`; a step that is not in the table is a defect and raises.
The README's picture is drawn from it (`diagram`), so the three cannot differ.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType


class State(Enum):
    """Where a call's actor stands."""

    RESERVING = "reserving"
    HOLDING = "holding"  # a reservation is held and its lease kept alive; the call may run
    WAIVED = "waived"  # policy lets the call run without a reservation
    SETTLING = "settling"
    ENDED = "ended"


class Event(Enum):
    """What an actor can learn."""

    GRANTED = "granted"
    WAIVED = "let through without one"
    REFUSED = "refused"
    ASKED_AGAIN = "denied while settlements were under way: asked once more"
    BEAT = "lease extended"
    TOLD = "told how the call ended"
    SETTLED = "settled"
    NOTHING_TO_SETTLE = "nothing to settle"
    UNANSWERED = "no answer: sent again, same key"
    EXPIRED = "lease is over: recorded as an event"
    KEPT = "not accepted yet: kept in the outbox"
    REJECTED = "ledger rejects the settlement"
    CUT_OFF = "cut off at the bound"


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.RESERVING, Event.GRANTED): State.HOLDING,
        (State.RESERVING, Event.WAIVED): State.WAIVED,
        (State.RESERVING, Event.REFUSED): State.ENDED,
        (State.RESERVING, Event.ASKED_AGAIN): State.RESERVING,
        (State.RESERVING, Event.CUT_OFF): State.ENDED,
        (State.HOLDING, Event.BEAT): State.HOLDING,
        (State.HOLDING, Event.TOLD): State.SETTLING,
        (State.WAIVED, Event.TOLD): State.SETTLING,
        (State.SETTLING, Event.SETTLED): State.ENDED,
        (State.SETTLING, Event.NOTHING_TO_SETTLE): State.ENDED,
        (State.SETTLING, Event.UNANSWERED): State.SETTLING,
        (State.SETTLING, Event.EXPIRED): State.SETTLING,
        (State.SETTLING, Event.KEPT): State.ENDED,
        (State.SETTLING, Event.REJECTED): State.ENDED,
        (State.SETTLING, Event.CUT_OFF): State.ENDED,
    }
)


class Outcome(StrEnum):
    """How a call stands in its receipt. The first two are of a call that has not ended."""

    RESERVING = "reserving"
    RUNNING = "running"
    COMMITTED = "committed"  # its known cost, or the estimate where nobody could tell
    ABANDONED = "abandoned"  # given up in flight: charged or released, as policy says
    RELEASED = "released"  # it never began
    DENIED = "denied"  # the budget, a limit or a cap said no
    FAILED = "failed"  # the ledger could not be asked
    UNRESERVED = "unreserved"  # let through without a reservation; the line says why
    RECORDED = "recorded"  # charged as an event: there was no live reservation
    OUTBOXED = "outboxed"  # a charge that the ledger has not accepted yet, kept to be sent again
    LAPSING = "lapsing"  # a reserve or release without an answer: the lease runs out
    UNSETTLED = "unsettled"  # the ledger failed: the spend is not in it


def step(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        ValueError: the table has no such step.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a call that is {state.value} cannot be {event.value}") from None


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.RESERVING.value}"]
    lines += [
        f"    {before.value} --> {after.value}: {event.value.replace(':', ',')}"
        for (before, event), after in TRANSITIONS.items()
    ]
    return "\n".join([*lines, f"    {State.ENDED.value} --> [*]"])
