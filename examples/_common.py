"""What the examples stand on: a model, a ledger, and a look into its books.

Without OPENAI_API_KEY a stand-in answers, and nothing leaves this machine. Without CYCLES_BASE_URL
or COMPTROLLER_LEDGER the ledger is one in memory, gone at the end.
"""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import agents
from runcycles import Amount, Unit

from comptroller import open_ledger
from comptroller.testing import CountingModel, StreamingModel

HAS_KEY = bool(os.environ.get("OPENAI_API_KEY"))
if not HAS_KEY:
    agents.set_tracing_disabled(True)  # traces go to OpenAI


def model(name: str, *turns: Any, pause: float = 0.0) -> Any:
    """OpenAI's model `name`; without a key a stand-in of that name and price.

    Args:
        name: what it is called, and priced by.
        turns: what the stand-in answers, one after the other: texts, or `function_call(...)`s.
        pause: seconds it takes for each word of its one text.
    """
    if HAS_KEY:
        return name
    used = (400, 60)  # tokens in and out that it reports for each answer
    stand_in: Any = CountingModel(*turns, tokens=used)
    if pause:
        stand_in = StreamingModel(*re.findall(r"\S+\s*", turns[0]), pause=pause, tokens=used)
    stand_in.model = name  # what calls are priced by
    return stand_in


@asynccontextmanager
async def ledger(**budgets: Amount | list[Amount]) -> AsyncIterator[Any]:
    """The ledger that the environment names, or one in memory, where tenants have `budgets`.

    A file keeps the budgets that it has; a Cycles server is funded by its operator.
    """
    server = os.environ.get("CYCLES_BASE_URL")
    if server:
        async with open_ledger(server, api_key=os.environ.get("CYCLES_API_KEY")) as books:
            yield books
        return
    async with open_ledger(os.environ.get("COMPTROLLER_LEDGER", "memory:")) as books:
        funded = {(each.scope_path, each.allocated.unit) for each in await books.budgets()}
        for tenant, amounts in budgets.items():
            for amount in amounts if isinstance(amounts, list) else [amounts]:
                if (f"tenant:{tenant}", amount.unit) not in funded:
                    await books.set_budget(f"tenant:{tenant}", amount)
        yield books


async def account(books: Any, tenant: str) -> str:
    """What the ledger says that a tenant has spent, and holds reserved."""
    balances = (await books.balances(tenant=tenant)).balances
    return "\n".join(
        f"{each.scope}: {_shown(each.spent)} of {_shown(each.allocated)} spent,"
        f" {_shown(each.reserved)} reserved"
        for each in balances
        if each.scope_path == f"tenant:{tenant}"
    )


def _shown(amount: Amount | None) -> str:
    if amount is None:  # a server need not say
        return "-"
    if amount.unit is Unit.USD_MICROCENTS:
        return f"${amount.amount / 100_000_000:.6f}"
    return f"{amount.amount} {amount.unit.value.lower().replace('_', ' ')}"
