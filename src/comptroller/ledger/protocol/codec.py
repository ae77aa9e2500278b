"""Bodies on the wire, strict both ways: what a server takes and what a client believes.

The protocol's schemas know no lax reading: an amount of `"5"`, `1.5` or `true`, or a member that
the schema does not list, is malformed. `5.0` and `5e3` are integers: its document is OpenAPI 3.1,
where a number with a zero fraction is one (JSON Schema 2020-12, core, 6.1.1). Values are those of
`runcycles`, whose models lack a few members that the protocol lists for answers; those are dropped
before an answer is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from operator import getitem
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json
from runcycles import CyclesResponse, DecisionResponse, ReleaseResponse, ReservationListResponse

from comptroller.ledger.models import DetailedReservation, ReservationRow

_MOST = 2**64
"""Above every integer of the protocol."""

Model = TypeVar("Model", bound=BaseModel)

API_KEY = "X-Cycles-API-Key"
IDEMPOTENCY_KEY = "X-Idempotency-Key"
DETAILS = "X-Comptroller-Details"
"""Sent by a client that wants the `details` of a denial: scope, amounts, what is left. Others get
what the reference server tells, which is those of a UNIT_MISMATCH alone."""


class Page(ReservationListResponse):
    """A page of reservations, with what the protocol has added to its rows since."""

    reservations: list[ReservationRow]  # type: ignore[assignment]  # a Listed is a ReservationSummary


_EXTRAS: Mapping[type[BaseModel], frozenset[str]] = {
    DecisionResponse: frozenset({"cycles_evidence"}),
    ReleaseResponse: frozenset({"cycles_evidence"}),
    DetailedReservation: frozenset({"evidence"}),
}
"""Members of the protocol's answers (v0.1.25.16) that the models of `runcycles` 0.5.3 refuse."""


class MalformedError(ValueError):
    """A body that its schema does not allow; the text is one line that says where and why."""


@dataclass
class RawResponse(CyclesResponse):
    """A success whose body is not parsed: it is validated as it came."""

    content: bytes = b""


def written(request: BaseModel) -> bytes:
    """Write a request as it is sent.

    Raises:
        TypeError, ValueError, RecursionError: it holds what JSON cannot carry.
    """
    given = request.__dict__
    metadata, metrics = given.get("metadata"), given.get("metrics")
    amount = given.get("estimate") or given.get("actual")
    # pydantic would write a number that is none of JSON's as null, and true as 1
    if (
        (metrics and metrics.custom)
        or (metadata and not all(type(value) is str for value in metadata.values()))
        or (amount and type(amount.amount) is not int)
    ):
        plain = request.model_dump(exclude_none=True)
        return json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    return request.__pydantic_serializer__.to_json(request, exclude_none=True)


def request(model: type[Model], body: bytes) -> Model:
    """Return the request in `body`, or `MalformedError`."""
    if b"NaN" in body or b"Infinity" in body:
        # Neither is JSON, but a free-form member would keep it. They may stand in a text, too.
        try:
            from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise MalformedError(f"the body is not JSON: {error}") from None
    return _strictly(model, body)


def answer(model: type[Model], body: Any) -> Model:
    """Return the answer in `body`, already parsed from JSON, or `MalformedError`."""
    extras = _EXTRAS.get(model)
    if extras and isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in extras}
    try:
        text = to_json(body)
    except ValueError as error:
        raise MalformedError(f"the body is no JSON text: {error}") from None
    return _strictly(model, text)


def answer_in(model: type[Model], content: bytes) -> Model:
    """Return the answer in `content`, as it came, or `MalformedError`."""
    if model not in _EXTRAS:
        return _strictly(model, content)
    try:
        body = from_json(content)
    except ValueError as error:
        raise MalformedError(f"the body is not JSON: {error}") from None
    return answer(model, body)


def _strictly(model: type[Model], text: bytes) -> Model:
    try:
        try:
            return model.model_validate_json(text, strict=True)
        except ValidationError as error:
            if (whole := _with_integers(text, error)) is None:
                raise
        return model.model_validate_json(whole, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MalformedError(f"{where}: {first['msg']}") from None


def _with_integers(text: bytes, error: ValidationError) -> bytes | None:
    """Turn numbers with a zero fraction into integers where integers are wanted.

    None where that is not all that is wrong. Digits are read as they were written: as a `float`,
    9007199254740993.0 would be another number.
    """
    wrong = error.errors(include_url=False, include_context=False)
    if not all(one["type"] == "int_type" and type(one["input"]) is float for one in wrong):
        return None
    try:
        body, exact = from_json(text), json.loads(text, parse_float=Decimal)
        for one in wrong:
            *path, last = one["loc"]
            holder, given = reduce(getitem, path, body), reduce(getitem, one["loc"], exact)
            if not -_MOST < given < _MOST or given != int(given):
                return None
            holder[last] = int(given)
    except (LookupError, TypeError, ValueError):  # not where it was said, or too long for Python
        return None
    return to_json(body)
