"""Bodies on the wire, strict both ways: what a server takes and what a client believes.

The protocol's schemas know no lax reading: an amount of `"5"`, `5.0` or `true`, or a member that
the schema does not list, is malformed. Values are those of `runcycles`, whose models lack a few
members that the protocol lists for answers; those are dropped before an answer is read.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json
from runcycles import DecisionResponse, ReleaseResponse, ReservationListResponse

from comptroller.ledger.book.answers import Detail, Listed

Model = TypeVar("Model", bound=BaseModel)

API_KEY = "X-Cycles-API-Key"
IDEMPOTENCY_KEY = "X-Idempotency-Key"
DETAILS = "X-Comptroller-Details"
"""Sent by a client that wants the `details` of a denial: scope, amounts, what is left. Others get
what the reference server tells, which is those of a UNIT_MISMATCH alone."""


class Page(ReservationListResponse):
    """A page of reservations, with what the protocol has added to its rows since."""

    reservations: list[Listed]  # type: ignore[assignment]  # a Listed is a ReservationSummary


_EXTRAS: Mapping[type[BaseModel], frozenset[str]] = {
    DecisionResponse: frozenset({"cycles_evidence"}),
    ReleaseResponse: frozenset({"cycles_evidence"}),
    Detail: frozenset({"evidence"}),
}
"""Members of the protocol's answers (v0.1.25.16) that the models of `runcycles` 0.5.3 refuse."""


class MalformedError(ValueError):
    """A body that its schema does not allow; the text is one line that says where and why."""


def request(model: type[Model], body: bytes) -> Model:
    """The request in `body`, or `MalformedError`."""
    if b"NaN" in body or b"Infinity" in body:
        # Neither is JSON, but a free-form member would keep it. They may stand in a text, too.
        try:
            from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise MalformedError(f"the body is not JSON: {error}") from None
    return _strictly(model, body)


def answer(model: type[Model], body: Any) -> Model:
    """The answer in `body`, already parsed from JSON, or `MalformedError`."""
    extras = _EXTRAS.get(model)
    if extras and isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in extras}
    try:
        text = to_json(body)
    except ValueError as error:
        raise MalformedError(f"the body is no JSON text: {error}") from None
    return _strictly(model, text)


def _strictly(model: type[Model], text: bytes) -> Model:
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MalformedError(f"{where}: {first['msg']}") from None
