"""Who plays in the demonstration: tenants, their budgets, their agents and their tools.

=========  ======================================================================================
acme       customer service, two cases at once; a nested agent translates
globex     a handoff to an agent whose tool costs risk points
initech    a crawler that never stops by itself, and every page makes the next call dearer
hooli      a long answer is streamed, and its reader closes the tab
=========  ======================================================================================
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from agents import Agent, FunctionTool, Model, ModelSettings, RunHooks, function_tool
from agents.items import TResponseOutputItem
from agents.testing import function_call
from runcycles import Amount

from comptroller import Policy, TokenCount, ToolEstimateConfig, ToolEstimateMap, risk_points, usd
from comptroller.demo.models import Scripted, Turn, WorkLog

LARGE, SMALL = "gpt-4.1", "gpt-4.1-mini"

BUDGETS: Mapping[str, tuple[Amount, ...]] = {
    "acme": (usd("0.10"),),
    "globex": (usd("0.10"), risk_points(100)),
    "initech": (usd("0.05"),),
    "hooli": (usd("0.10"),),
}

_HANDBOOK = "Be brief, be friendly, promise nothing that the carrier has not promised. " * 60
_PAGE = "The archive goes on. Every page of it says much the same as the one before. " * 80
_STORY = "Once upon a time a ledger and a language model shared a house by the lake. " * 40
_WORKS = 0.1  # seconds of a tool
_SETTINGS = ModelSettings(max_tokens=800)  # the worst case that a call reserves


@attrs.frozen
class DemoRun:
    """One run. `closes_after`: the pieces of a streamed answer after which its reader leaves."""

    id: str
    tenant: str
    agent: Agent[Any]
    given: str
    closes_after: int | None = None


def page_cost(_: Any, page: str) -> Amount:
    """Return what `fetch_page` costs: a dollar for ten million characters."""
    return usd(f"{len(page)}e-7")


POLICY = Policy(
    tools=ToolEstimateMap(
        {
            "issue_refund": ToolEstimateConfig(risk_points(40)),
            "fetch_page": ToolEstimateConfig(usd("0.001"), actual=page_cost),
        },
        default_estimate=0,  # other tools are counted, and cost nothing
    )
)


class Counting(RunHooks[Any]):
    """A real model does not enter its work in the tally: the SDK tells what it reported."""

    def __init__(self, tenant: str, tally: WorkLog) -> None:
        self._tenant, self._tally = tenant, tally

    async def on_llm_end(self, context: Any, agent: Agent[Any], response: Any) -> None:
        """Enter one answer."""
        del context
        usage = response.usage
        used = TokenCount(
            input=usage.input_tokens,
            cached=usage.input_tokens_details.cached_tokens or 0,
            output=usage.output_tokens,
            reasoning=usage.output_tokens_details.reasoning_tokens or 0,
        )
        self._tally.model(self._tenant, str(agent.model), used)


@attrs.frozen
class DemoSetup:
    """What the agents are made for: the tally, and a real model's name or None."""

    tally: WorkLog
    real: str | None = None

    def model(self, name: str, tenant: str, *turns: Turn) -> Model | str:
        """Return the model called `name`, with its script."""
        return self.real or Scripted(name, tenant, self.tally, turns)

    def hooks(self, tenant: str) -> Counting | None:
        """Return what counts for a real model."""
        return Counting(tenant, self.tally) if self.real else None


def parts(stage: DemoSetup) -> list[DemoRun]:
    """Every run of the demonstration."""
    return [
        DemoRun("acme-1", "acme", _support(stage), "Where is order 1017? In French, please."),
        DemoRun("acme-2", "acme", _support(stage), "My order 1017 is late. In French, please."),
        DemoRun(
            "globex-1", "globex", _triage(stage), "The kettle is broken. I want my money back."
        ),
        DemoRun("globex-2", "globex", _triage(stage), "The toaster is broken. What now?"),
        DemoRun("initech", "initech", _crawler(stage), "Read the whole archive."),
        DemoRun("hooli", "hooli", _storyteller(stage), "Tell me a long story.", closes_after=150),
    ]


def _calls(name: str, number: int = 1, **arguments: object) -> Sequence[TResponseOutputItem]:
    return [function_call(name, arguments, call_id=f"{name}-{number}")]


def _support(stage: DemoSetup) -> Agent[Any]:
    french = "Votre commande est en route et arrive demain avant midi."
    translator = Agent[Any](
        name="Translator",
        instructions="Translate into French. Answer with the translation alone.",
        model=stage.model(SMALL, "acme", french),
        model_settings=_SETTINGS,
    )
    return Agent(
        name="Support",
        instructions=f"Look the order up, have your answer translated, send it. {_HANDBOOK}",
        model=stage.model(
            LARGE,
            "acme",
            _calls("look_up_order", order=1017),
            _calls("translate", input="Your order is on its way and arrives tomorrow by noon."),
            french,
        ),
        model_settings=_SETTINGS,
        tools=[
            _look_up_order(),
            translator.as_tool("translate", "Translates.", hooks=stage.hooks("acme")),
        ],
    )


def _look_up_order() -> FunctionTool:
    @function_tool
    async def look_up_order(order: int) -> str:
        """Return the state of an order."""
        await asyncio.sleep(_WORKS)
        return f"order {order}: handed to the carrier, arrives tomorrow by noon"

    return look_up_order


def _triage(stage: DemoSetup) -> Agent[Any]:
    refunds = Agent[Any](
        name="Refunds",
        instructions=f"Issue the refund, then confirm it in a sentence. {_HANDBOOK}",
        handoff_description="Gives money back.",
        model=stage.model(
            LARGE, "globex", _calls("issue_refund", cents=4900), "Your $49.00 are on their way."
        ),
        model_settings=_SETTINGS,
        tools=[_issue_refund(stage.tally)],
    )
    return Agent(
        name="Triage",
        instructions="Hand the customer over to the colleague in charge.",
        model=stage.model(SMALL, "globex", _calls("transfer_to_refunds")),
        model_settings=_SETTINGS,
        handoffs=[refunds],
    )


def _issue_refund(tally: WorkLog) -> FunctionTool:
    @function_tool
    async def issue_refund(cents: int) -> str:
        """Pay a customer back."""
        await asyncio.sleep(_WORKS)
        tally.tool("globex", "issue_refund", risk_points(40))
        return f"refunded {cents} cents"

    return issue_refund


def _crawler(stage: DemoSetup) -> Agent[Any]:
    return Agent(
        name="Crawler",
        instructions="Fetch page 1, then every next page, one by one. Stop at the last one only.",
        model=stage.model(
            LARGE, "initech", *(_calls("fetch_page", n, page=n) for n in range(1, 50))
        ),
        model_settings=_SETTINGS,
        tools=[_fetch_page(stage.tally)],
    )


def _fetch_page(tally: WorkLog) -> FunctionTool:
    @function_tool
    async def fetch_page(page: int) -> str:
        """One page of the archive."""
        await asyncio.sleep(_WORKS)
        text = f"{_PAGE}Page {page} of 1000: go on with page {page + 1}."
        tally.tool("initech", "fetch_page", usd(f"{len(text)}e-7"))
        return text

    return fetch_page


def _storyteller(stage: DemoSetup) -> Agent[Any]:
    return Agent(
        name="Storyteller",
        instructions="Tell stories at length.",
        model=stage.model(LARGE, "hooli", _STORY),
        model_settings=_SETTINGS,
    )
