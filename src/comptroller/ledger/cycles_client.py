"""A ledger of this process as a client of the Cycles SDK: `as_client(ledger)`.

The other way round from `cycles`, which makes a ledger of a server: what was written for
`runcycles.AsyncCyclesClient` works on an embedded ledger, without a server and without HTTP. The
answers are those that the ledger would give over HTTP; no answer gets lost.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import to_json
from runcycles import (
    AsyncCyclesClient,
    CommitRequest,
    CyclesConfig,
    CyclesResponse,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
)

from comptroller._validation import check_attribute
from comptroller.core.scopes import LEVELS
from comptroller.errors import BudgetExceeded, ComptrollerError, LedgerError, refusal
from comptroller.ledger.interface import BalanceQuery, Ledger, ReservationQuery
from comptroller.ledger.protocol import codec
from comptroller.ledger.protocol import query_params as queries

Request = TypeVar("Request", bound=BaseModel)
Query = TypeVar("Query", ReservationQuery, BalanceQuery)

_OK, _CREATED, _BAD_REQUEST, _FORBIDDEN, _CONFLICT, _OWN_FAULT = 200, 201, 400, 403, 409, 500


def as_client(ledger: Ledger, *, tenant: str | None = None) -> "CyclesClientAdapter":
    """`ledger` with the methods of `runcycles.AsyncCyclesClient`.

    Args:
        ledger: whom it asks. Close the ledger, not the client.
        tenant: whose client it is: another tenant's budgets and reservations are refused, as with
            a key over HTTP. None: it is trusted with every tenant's.
    """
    check_attribute("ledger", ledger, "name", "what `async with open_ledger(...)` gives")
    return CyclesClientAdapter(ledger, tenant)


class CyclesClientAdapter(AsyncCyclesClient):
    """What `as_client` gives. `stream_reservation` is inherited: it asks these methods.

    Attributes:
        ledger: whom it asks.
        tenant: whose client it is; None: everybody's.
    """

    def __init__(self, ledger: Ledger, tenant: str | None = None) -> None:
        self.ledger, self.tenant = ledger, tenant
        # No retries and no journal: an embedded ledger has answered, or it has not been asked.
        self._config = CyclesConfig(
            base_url=ledger.name, api_key="none", retry_enabled=False, journal_enabled=False
        )

    async def create_reservation(self, request: BaseModel | dict[str, Any]) -> CyclesResponse:
        """`POST /v1/reservations`."""
        return await _answer(
            lambda: self.ledger.reserve(
                _read(ReservationCreateRequest, request), tenant=self.tenant
            )
        )

    async def commit_reservation(
        self, reservation_id: str, request: BaseModel | dict[str, Any]
    ) -> CyclesResponse:
        """`POST /v1/reservations/{id}/commit`."""
        return await _answer(
            lambda: self.ledger.commit(
                reservation_id, _read(CommitRequest, request), tenant=self.tenant
            )
        )

    async def release_reservation(
        self, reservation_id: str, request: BaseModel | dict[str, Any]
    ) -> CyclesResponse:
        """`POST /v1/reservations/{id}/release`."""
        return await _answer(
            lambda: self.ledger.release(
                reservation_id, _read(ReleaseRequest, request), tenant=self.tenant
            )
        )

    async def extend_reservation(
        self, reservation_id: str, request: BaseModel | dict[str, Any]
    ) -> CyclesResponse:
        """`POST /v1/reservations/{id}/extend`."""
        return await _answer(
            lambda: self.ledger.extend(
                reservation_id, _read(ReservationExtendRequest, request), tenant=self.tenant
            )
        )

    async def decide(self, request: BaseModel | dict[str, Any]) -> CyclesResponse:
        """`POST /v1/decide`."""
        return await _answer(
            lambda: self.ledger.decide(_read(DecisionRequest, request), tenant=self.tenant)
        )

    async def create_event(self, request: BaseModel | dict[str, Any]) -> CyclesResponse:
        """`POST /v1/events`."""
        return await _answer(
            lambda: self.ledger.record(_read(EventCreateRequest, request), tenant=self.tenant),
            _CREATED,
        )

    async def list_reservations(self, **query_params: str) -> CyclesResponse:
        """`GET /v1/reservations`."""
        return await _answer(
            lambda: self.ledger.reservations(
                **_query(queries.reservation_query, query_params),
                tenant=self._tenant_of(query_params),
            )
        )

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """`GET /v1/reservations/{id}`."""
        return await _answer(lambda: self.ledger.reservation(reservation_id, tenant=self.tenant))

    async def get_balances(self, **query_params: str) -> CyclesResponse:
        """`GET /v1/balances`."""
        if self.tenant is None and not any(query_params.get(level) for level in LEVELS):
            raise ValueError(f"give at least one filter of {', '.join(LEVELS)}")
        return await _answer(
            lambda: self.ledger.balances(
                **_query(queries.balance_query, query_params),
                tenant=self._tenant_of(query_params),
            )
        )

    def _tenant_of(self, query: Mapping[str, str]) -> str | None:
        """Return the tenant of a listing: the client's own; another one's is refused."""
        named = query.get("tenant") or self.tenant
        if self.tenant is None or named is None or named.lower() == self.tenant.lower():
            return named
        raise refusal(
            f"this client belongs to tenant {self.tenant}",
            status=_FORBIDDEN, error_code="FORBIDDEN", asks_for_budget=False,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Nothing to close: the ledger is its opener's."""


def _query(read: Callable[[Mapping[str, str]], Query], texts: Mapping[str, str]) -> Query:
    try:
        return read({name: str(text) for name, text in texts.items()})
    except codec.MalformedError as error:
        raise _invalid(str(error)) from None


def _read(model: type[Request], given: BaseModel | dict[str, Any]) -> Request:
    """Read the request: checked as a server would where it is not the model itself."""
    if isinstance(given, model):
        return given
    try:
        if isinstance(given, BaseModel):
            text = given.model_dump_json(exclude_none=True).encode()
        else:
            text = to_json(given)
        return codec.request(model, text)
    except ValueError as error:
        raise _invalid(str(error)) from None


async def _answer(ask: Callable[[], Awaitable[BaseModel]], status: int = _OK) -> CyclesResponse:
    request_id = f"req_{secrets.token_hex(8)}"
    headers = {"x-request-id": request_id}
    try:
        answer = await ask()
    except ComptrollerError as error:
        return _refused(error, request_id, headers)
    return CyclesResponse.success(
        status, answer.model_dump(mode="json", exclude_none=True), headers
    )


def _refused(error: ComptrollerError, request_id: str, headers: dict[str, str]) -> CyclesResponse:
    """Return the refusal as the protocol's error; one without a code is the ledger's own fault."""
    answered = error if isinstance(error, LedgerError) else LedgerError("")
    code, status = answered.error_code, answered.status
    if code is None:
        code, status = "INTERNAL_ERROR", _OWN_FAULT
    elif isinstance(error, BudgetExceeded):
        status = _CONFLICT
    body: dict[str, Any] = {"error": code, "message": str(error), "request_id": request_id}
    if answered.details:
        body["details"] = answered.details
    return CyclesResponse.http_error(status, str(error), body, headers)


def _invalid(message: str) -> ComptrollerError:
    return refusal(
        message, status=_BAD_REQUEST, error_code="INVALID_REQUEST", asks_for_budget=False
    )
