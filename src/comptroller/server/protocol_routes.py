"""The runtime plane of the protocol: each of its requests, as the ledger is asked."""

import re
from collections.abc import Mapping

from pydantic import BaseModel
from runcycles import (
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
)

from comptroller.core.scopes import LEVELS
from comptroller.ledger.engine.queries import DEFAULT_LIMIT
from comptroller.ledger.protocol import query_params
from comptroller.server.request import invalid, problem
from comptroller.server.routing import EVIDENCE, NAMED, Route, RoutedRequest, Routes

_DIGEST = re.compile("[0-9a-f]{64}")


async def _reserve(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.reserve(asked.body, tenant=asked.tenant)


async def _decide(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.decide(asked.body, tenant=asked.tenant)


async def _record(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.record(asked.body, tenant=asked.tenant)


async def _commit(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.commit(asked.name, asked.body, tenant=asked.tenant)


async def _release(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.release(asked.name, asked.body, tenant=asked.tenant)


async def _extend(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.extend(asked.name, asked.body, tenant=asked.tenant)


async def _reservation(asked: RoutedRequest) -> BaseModel:
    return await asked.ledger.reservation(asked.name, tenant=asked.tenant)


async def _reservations(asked: RoutedRequest) -> BaseModel:
    """For the operator the tenant is a filter, and required (protocol, listReservations)."""
    _must_be_own(asked)
    tenant = asked.tenant or asked.exchange.query.get("tenant")
    if not tenant:
        raise invalid("tenant query parameter is required when using admin key authentication")
    query = query_params.reservation_query(asked.exchange.query)
    return await asked.ledger.reservations(tenant=tenant, **query)


async def _balances(asked: RoutedRequest) -> BaseModel:
    _must_be_own(asked)
    texts: Mapping[str, str] = asked.exchange.query
    if not any(texts.get(level) for level in LEVELS):
        raise invalid(f"give at least one filter of {', '.join(LEVELS)}")
    query = query_params.balance_query(texts)
    query.setdefault("limit", DEFAULT_LIMIT)
    return await asked.ledger.balances(tenant=asked.tenant, **query)


def _must_be_own(asked: RoutedRequest) -> None:
    """Check a tenant's parameter `tenant`, which is validation only (protocol, AUTH & TENANCY)."""
    given = asked.exchange.query.get("tenant")
    if given and asked.tenant and given.lower() != asked.tenant.lower():
        raise problem("the API key belongs to another tenant", 403, "FORBIDDEN")


async def _evidence(asked: RoutedRequest) -> BaseModel:
    """Refuse: an envelope is named by its digest; there is none (see `_no_evidence`)."""
    if not _DIGEST.fullmatch(asked.name):
        raise invalid("evidence is named by 64 lower-case hex digits")
    return await _no_evidence(asked)


async def _no_evidence(asked: RoutedRequest) -> BaseModel:
    """Signed evidence is optional, and so is the set of its keys: 404 says there is none."""
    raise problem(f"{asked.exchange.path}: this server signs no evidence", 404, "NOT_FOUND")


ROUTES: Routes = {
    "/v1/decide": {"POST": Route(_decide, DecisionRequest)},
    "/v1/reservations": {
        "POST": Route(_reserve, ReservationCreateRequest),
        "GET": Route(_reservations, admits="both", long=True),
    },
    NAMED: {"GET": Route(_reservation, admits="both", long=True)},
    f"{NAMED}/commit": {"POST": Route(_commit, CommitRequest)},
    f"{NAMED}/release": {"POST": Route(_release, ReleaseRequest, admits="both")},
    f"{NAMED}/extend": {"POST": Route(_extend, ReservationExtendRequest)},
    "/v1/events": {"POST": Route(_record, EventCreateRequest, status=201)},
    "/v1/balances": {"GET": Route(_balances, long=True)},
    EVIDENCE: {"GET": Route(_evidence, admits="anybody")},
    "/v1/.well-known/cycles-jwks.json": {"GET": Route(_no_evidence, admits="anybody")},
}
