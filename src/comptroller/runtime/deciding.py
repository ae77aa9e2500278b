"""What a call's end costs, as far as it can be told, and who learns of it."""

import logging

from runcycles import Unit

from comptroller.decide.pricing import PLAIN, PriceBook
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

_UNPRICED = (
    "no price is known for %(model)s: its calls are charged their estimate. Say what it costs in"
    ' USD per million tokens, prices={"%(model)s": Price("2.50", "10")}, or the name it is'
    " priced as"
)
_GUESSED = (
    "%(model)s is served at a private address and charged as the hosted model of that name."
    ' Where it runs locally, write prices={"%(model)s": Price("0", "0")}; where the address is'
    " a gateway, the name it is priced as"
)

_WARNED: set[tuple[str, str]] = set()
"""What this process has warned of, and for which model."""
_MOST_WARNINGS = 1_000


def decided(call: Call, terms: Terms, end: End, streamed: int | None) -> Commit | Release:
    """What the ledger is told. `streamed`: output tokens seen so far."""
    request = call.draft.request
    spent = Spent(
        model=request.model if request else None,
        input_tokens=request.input_tokens if request else 0,
        streamed=streamed,
        billing=request.billing if request else PLAIN,
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
        _warn_of(_UNPRICED, call.draft.name)
    elif _is_guess(terms, spent, decision):
        _warn_of(_GUESSED, call.draft.name)
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


def _is_guess(terms: Terms, spent: Spent, decision: Commit | Release) -> bool:
    """Whether a call of a private address was priced as that of a hosted model of its name."""
    return (
        isinstance(terms.prices, PriceBook)
        and isinstance(decision, Commit)
        and decision.source == "usage"
        and decision.actual.unit == Unit.USD_MICROCENTS
        and spent.model is not None
        and terms.prices.is_guess(spent.model, spent.billing)
    )


def _warn_of(text: str, model: str) -> None:
    """Once for each model, however many runs call it."""
    if (text, model) not in _WARNED and len(_WARNED) < _MOST_WARNINGS:
        _WARNED.add((text, model))
        log.warning(text, {"model": model})


def _teach(call: Call, terms: Terms, decision: Commit | Release) -> None:
    """A strategy that learns is told what was really used; an estimate would confirm itself."""
    learn = getattr(terms.policy.llm_estimate, "learn", None)
    request = call.draft.request
    if learn is None or request is None or not isinstance(decision, Commit):
        return
    if decision.source in ("usage", "reported"):
        learn(request.agent, request.model, decision.actual)
