"""What a call's end costs, as far as it can be told, and who learns of it."""

import logging

from runcycles import Unit

from comptroller.decide.settlement import (
    Abandoned,
    Commit,
    End,
    Finished,
    Release,
    Spent,
    settlement,
)
from comptroller.money import checked

from .call import Call, Terms

log = logging.getLogger("comptroller")

_UNPRICED: set[str] = set()
"""The models that this process has warned of."""
_MOST_WARNINGS = 1_000


def decided(call: Call, terms: Terms, end: End, streamed: int | None) -> Commit | Release:
    """What the ledger is told. `streamed`: output tokens seen so far."""
    request = call.draft.request
    spent = Spent(
        model=request.model if request else None,
        input_tokens=request.input_tokens if request else 0,
        streamed=streamed,
    )
    try:
        decision = settlement(end, call.estimate, spent, terms.prices, terms.policy.on_abandoned)
        if isinstance(decision, Commit):
            checked(decision.actual)
    except Exception as error:  # the user's price book: the call ran and must be charged
        log.exception("call %s: its price is not to be had, its estimate is charged", call.key)
        return Commit(
            call.estimate,
            "estimate",
            end.reason if isinstance(end, Abandoned) else None,
            f"its price is not to be had ({type(error).__name__})",
        )
    if _lacks_price(end, decision):
        _warn_of(call.draft.name)
    try:
        _teach(call, terms, decision)
    except Exception:  # the user's strategy, which loses a lesson and changes no price
        log.exception("call %s: its strategy could not learn from it", call.key)
    return decision


def _lacks_price(end: End, decision: Commit | Release) -> bool:
    """Whether tokens were reported, and an estimate in dollars is charged all the same."""
    return (
        isinstance(end, Finished)
        and end.usage is not None
        and isinstance(decision, Commit)
        and decision.source == "estimate"
        and decision.actual.unit == Unit.USD_MICROCENTS
    )


def _warn_of(model: str) -> None:
    """Once for each model, however many runs call it."""
    if model in _UNPRICED or len(_UNPRICED) == _MOST_WARNINGS:
        return
    _UNPRICED.add(model)
    log.warning(
        "no price is known for %s: its calls are charged their estimate. Say what it costs in USD"
        ' per million tokens, prices={"%s": Price("2.50", "10")}, or the name it is priced as',
        model, model,
    )  # fmt: skip


def _teach(call: Call, terms: Terms, decision: Commit | Release) -> None:
    """A strategy that learns is told what was really used; an estimate would confirm itself."""
    learn = getattr(terms.policy.llm_estimate, "learn", None)
    request = call.draft.request
    if learn is None or request is None or not isinstance(decision, Commit):
        return
    if decision.source == "usage":
        learn(request.agent, request.model, decision.actual)
