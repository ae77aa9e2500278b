"""A ledger in memory with budgets, hooks on it, and what it says afterwards."""

from contextlib import asynccontextmanager
from typing import Any

import httpx
from agents import Agent, function_tool
from agents.testing import function_call
from runcycles import AsyncCyclesClient, CyclesConfig

from comptroller import as_client, risk_points, usd
from comptroller.ledger.embedded.memory import open_memory
from comptroller.server import serve_ledger
from comptroller.testing import CountingModel, assert_settled
from support.hooks_scenarios import Watched

CONFIG = CyclesConfig(base_url="http://cycles", api_key="key", journal_enabled=False)


@asynccontextmanager
async def funded(dollars: str = "10", points: int = 100):
    """A ledger of tenant acme, with nothing reserved at the end."""
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", usd(dollars))
        await ledger.set_budget("tenant:acme", risk_points(points))
        yield ledger
        await assert_settled(ledger)


@asynccontextmanager
async def hooks_on(around: Any = lambda ledger: ledger, dollars="10", points=100, **settings: Any):
    """(hooks, ledger); `around` stands between them."""
    async with funded(dollars, points) as ledger:
        yield Watched(as_client(around(ledger)), tenant="acme", **settings), ledger


def client_over(transport: httpx.AsyncBaseTransport, config: CyclesConfig = CONFIG) -> Any:
    """A client of the Cycles SDK whose requests are answered by `transport`."""
    client = AsyncCyclesClient(config)
    client._http = httpx.AsyncClient(
        base_url=config.base_url, headers={"X-Cycles-API-Key": config.api_key}, transport=transport
    )
    return client


def served(ledger: Any) -> Any:
    """A client of the Cycles SDK whose server is `ledger`."""
    return client_over(httpx.ASGITransport(serve_ledger(ledger, {"key": "acme"})))


def answers(status: int, body: Any = None, **headers: str) -> httpx.MockTransport:
    """A server that always answers like this; status 0: it does not answer."""

    def answer(request: httpx.Request) -> httpx.Response:
        if not status:
            raise httpx.ConnectError("nobody is there", request=request)
        return httpx.Response(status, json=body, headers=headers)

    return httpx.MockTransport(answer)


@function_tool
def search(query: str) -> str:
    """Search."""
    return f"found {query}"


def talker(*answers_: Any, **fields: Any) -> tuple[Agent[Any], CountingModel]:
    """An agent and its model, which answers like this."""
    model = CountingModel(*answers_)
    return Agent(name="Triage agent", model=model, **fields), model


def searcher() -> tuple[Agent[Any], CountingModel]:
    """An agent that searches once and then says so."""
    turn = [function_call("search", {"query": "x"}, call_id="c1")]
    return talker(turn, "found it", tools=[search])


async def statuses(ledger: Any) -> list[tuple[str, str]]:
    """(action kind, status) of every reservation, oldest first."""
    listed = (await ledger.reservations(tenant="acme", limit=200)).reservations
    return [(each.action.kind, each.status.value) for each in reversed(listed)]
