"""A ledger in memory behind the HTTP face, with the operator's hand on what is behind it."""

from contextlib import asynccontextmanager

import httpx

from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.server import serve_ledger

TENANTS = ("acme", "globex")
OPERATORS = ("set_budget", "fund", "freeze", "unfreeze", "close_budget", "budgets")
ABOUT_A_RESERVATION = ("commit", "release", "extend", "reservation", "reservations")


class Served:
    """Requests go over HTTP, under their tenant's key; what only an operator does is done behind.

    A caller that is trusted with any reservation has no key of its own, so it is taken for acme.
    """

    def __init__(self, remote, behind):
        self._asked, self._behind = remote, behind

    def __getattr__(self, name):
        if name in ABOUT_A_RESERVATION:
            return lambda *asked, tenant="acme", **more: getattr(self._asked, name)(
                *asked, tenant=tenant, **more
            )
        return getattr(self._behind if name in OPERATORS else self._asked, name)


@asynccontextmanager
async def over_http(clock, tmp_path):
    keys = {f"key-of-{tenant}": tenant for tenant in TENANTS}

    async def key_of(tenant):
        return f"key-of-{tenant}"

    async with open_memory(now=clock) as behind:
        transport = httpx.ASGITransport(serve_ledger(behind, keys))
        async with open_cycles("http://cycles", api_key=key_of, transport=transport) as remote:
            yield Served(remote, behind)
