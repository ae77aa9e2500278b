"""A request sent again is answered as the first time (protocol, IDEMPOTENCY).

Keys are kept per (tenant, endpoint, key) as digests of 16 bytes, requests as fingerprints of 16
bytes over canonical JSON: the same key with another request is a mismatch. Only successes are
remembered, so a denied reserve can succeed under its key once there is budget.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from contextvars import ContextVar

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from runcycles import ReservationCreateRequest

from comptroller._frozen import frozen_record
from comptroller.errors import LedgerRefused, refusal
from comptroller.ledger.engine.denial_errors import invalid
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.records import (
    DEFAULT_GRACE_MS,
    CanonicalRequest,
    Endpoint,
    StoredResponse,
)

_BYTES = 16
_SURROGATE = r"\ud"


@frozen_record
class IdempotencyKey:
    """One request's key at one endpoint."""

    book: Engine
    endpoint: Endpoint
    digest: bytes
    fingerprint: bytes
    said: str
    """The whole request, as JSON."""
    row: int = 0
    """The reservation that the endpoint belongs to; 0 for none."""

    def recalled(self) -> StoredResponse | None:
        """Return what this request was answered before, if it was.

        Raises:
            LedgerRefused: the key was used for another request (IDEMPOTENCY_MISMATCH).
        """
        known = self.book.store.recall(self.endpoint, self.digest, self.row)
        if known is not None and known.fingerprint != self.fingerprint:
            raise refusal(
                "the idempotency key was used before for another request; use a new key",
                status=409,
                error_code="IDEMPOTENCY_MISMATCH",
                asks_for_budget=False,
            )
        return known

    def remember(self, answer: StoredResponse) -> StoredResponse:
        """Keep what the request is answered."""
        self.book.store.remember(self.endpoint, self.digest, answer, self.row)
        return answer


def key_of(
    book: Engine, tenant: str | None, endpoint: Endpoint, request: BaseModel, key: str, row: int = 0
) -> IdempotencyKey:
    """Return the key of `request` at `endpoint`; `row` as the key's.

    Raises:
        LedgerRefused: the request cannot be written as JSON (INVALID_REQUEST).
    """
    ahead = book.written
    said = ahead.text() if ahead and ahead.request is request else canonical(request)
    named = f"{tenant or ''}\0{endpoint}\0{key}".encode()
    return IdempotencyKey(
        book,
        endpoint,
        hashlib.blake2b(named, digest_size=_BYTES).digest(),
        hashlib.blake2b(said.encode(), digest_size=_BYTES).digest(),
        said,
        row,
    )


canonical_request: ContextVar[CanonicalRequest | None] = ContextVar(
    "comptroller_canonical_request", default=None
)
"""The request of this context, where whoever serves it has written it already."""


def written(request: BaseModel) -> CanonicalRequest:
    """Write `request`, ahead of its ledger's turn."""
    try:
        return CanonicalRequest(request, canonical(request))
    except LedgerRefused as error:
        return CanonicalRequest(request, error)


def canonical(request: BaseModel) -> str:
    """Write the request as JSON, the same for equal requests.

    The members of a model come in its own order. Only where a caller has chosen names, as in
    metadata, they are sorted, which takes several times as long.

    Raises:
        LedgerRefused: its metadata holds what JSON cannot carry (INVALID_REQUEST).
    """
    if isinstance(request, ReservationCreateRequest):
        request = _without_defaults(request)
    try:
        if not has_chosen_names(request):
            # `model_dump_json` without its two dozen settings, which cost as much as the JSON
            return request.__pydantic_serializer__.to_json(request, exclude_none=True).decode()
        if not _finite(request.__dict__.get("metadata")) or not _finite(_custom(request)):
            raise invalid("the request cannot be written as JSON: it holds no finite number")
        plain = request.model_dump(mode="json", exclude_none=True)
        said = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        if _SURROGATE in said:  # a pair of them is a character, half of one is none
            to_json(plain)
    except (PydanticSerializationError, RecursionError, ValueError) as error:
        raise invalid(f"the request cannot be written as JSON: {error}") from None
    return said


def _without_defaults(request: ReservationCreateRequest) -> ReservationCreateRequest:
    """Leave out what only names a default: named or not, it is the same request."""
    defaults: dict[str, None] = {}
    if request.dry_run is False:
        defaults["dry_run"] = None
    if request.grace_period_ms == DEFAULT_GRACE_MS:
        defaults["grace_period_ms"] = None
    return request.model_copy(update=defaults) if defaults else request


def _custom(request: BaseModel) -> object:
    metrics = request.__dict__.get("metrics")
    return metrics.custom if metrics else None


def _finite(value: object) -> bool:
    """Whether every number in there is one to JSON, which pydantic would write as null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))


def has_chosen_names(request: BaseModel) -> bool:
    """Whether a mapping in the request has members that its model does not name."""
    said = request.__dict__
    if said.get("metadata") or said.get("metrics"):
        return True
    subject = said.get("subject")
    return subject is not None and bool(subject.dimensions)
