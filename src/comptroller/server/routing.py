"""Which path and method is answered by what."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import attrs
from pydantic import BaseModel

from comptroller.ledger.interface import Ledger
from comptroller.server.request import RequestContext, problem

Admitted = Literal["anybody", "tenant", "both", "operator"]
"""Whose key opens a route: a tenant's, a tenant's or the operator's, the operator's alone."""


@attrs.frozen
class RoutedRequest:
    """A request that has been let in."""

    ledger: Ledger
    exchange: RequestContext
    name: str
    """What the path names: a reservation."""
    body: Any
    """The request model of the route, validated."""

    @property
    def tenant(self) -> str | None:
        """The effective tenant; None for the operator."""
        return self.exchange.caller.tenant if self.exchange.caller else None


@attrs.frozen
class Route:
    """What answers, with what it takes and who may ask."""

    answer: Callable[[RoutedRequest], Awaitable[BaseModel]]
    model: type[BaseModel] | None = None
    status: int = 200
    admits: Admitted = "tenant"
    long: bool = False
    """Whether its answer may be long: many rows, or all that a caller has added to one."""


Routes = Mapping[str, Mapping[str, Route]]
"""Path -> method -> route."""

NAMED = "/v1/reservations/{reservation_id}"
EVIDENCE = "/v1/evidence/{evidence_id}"
_OPEN = {template.partition("{")[0]: template for template in (NAMED, EVIDENCE)}


def found(routes: Routes, exchange: RequestContext) -> tuple[Route, str]:
    """Return the route of a request, and what its path names.

    Raises:
        LedgerRefused: there is no such path (404), or it does not take the method (405).
    """
    name, path = "", exchange.path
    for prefix, template in _OPEN.items():
        if path.startswith(prefix):
            name, slash, rest = path.removeprefix(prefix).partition("/")
            path = f"{template}{slash}{rest}" if name else path
    methods = routes.get(path)
    if methods is None:
        raise problem(f"{exchange.path}: no such path", 404, "NOT_FOUND")
    exchange.route = path
    method = "GET" if exchange.method == "HEAD" else exchange.method  # RFC 9110, 9.3.2
    if method not in methods:
        raise problem(f"{exchange.path} takes {' and '.join(methods)}", 405, "INVALID_REQUEST")
    return methods[method], name
