"""What the Codex tool used is charged: its agent runs in a process where nobody is asked.

The rules:
- A tool that spends a model's tokens and says how many is charged as an LLM call of the run is: at
  the price of that model, in the run's unit, on a line of its own.
- A price that the user's map has for the tool wins, a price of nothing too: nothing is charged
  twice.
- What is not known is said: a model without a name is charged an estimate, marked as one, and a
  tool that came back without its tokens says so on its line.
"""

import logging
import subprocess
import sys

import pytest
from agents import Agent, function_tool
from agents.extensions.experimental.codex import (
    Codex,
    CodexOptions,
    CodexToolOptions,
    CodexToolResult,
    ThreadOptions,
    Usage,
    codex_tool,
)
from agents.testing import function_call

from comptroller import (
    Limits,
    Policy,
    Price,
    ToolEstimateConfig,
    ToolEstimateMap,
    WorstCase,
    governed_run,
    risk_points,
    tokens,
    usd,
)
from comptroller.core.pricing import PriceBook, TokenCount
from comptroller.errors import LimitReached
from comptroller.ledger.embedded.memory import open_memory
from comptroller.openai_agents import sdk_internals
from comptroller.runtime import settlement
from comptroller.testing import CountingModel, assert_settled

pytestmark = pytest.mark.anyio

USED = TokenCount(input=40_000, cached=30_000, output=2_000)
USAGE = {"input_tokens": 40_000, "cached_input_tokens": 30_000, "output_tokens": 2_000}
THREAD = ThreadOptions(model="gpt-5-codex")
DONE = {"type": "turn.completed", "usage": USAGE}
SAID = {"type": "item.completed", "item": {"id": "1", "type": "agent_message", "text": "mended"}}
FAILED = {"type": "turn.failed", "error": {"message": "out of tokens"}}
PRICES = {"CountingModel": Price("1", "4")}
PRICE = PriceBook().price("openai:gpt-5-codex", USED).amount


class Thread:
    """One that plays `events` in place of the program."""

    id = "thread-1"

    def __init__(self, events):
        self.events = events

    async def run_streamed(self, given, options):
        return self


class Player(Codex):
    """A Codex whose threads play `events`."""

    def __init__(self, *events, base_url=None):
        self._options, self.played = CodexOptions(base_url=base_url), events

    def start_thread(self, options=None):
        async def events():
            for event in self.played:
                yield event

        return Thread(events())


def codex(*events, **options):
    return codex_tool(CodexToolOptions(codex=Player(*(events or (SAID, DONE))), **options))


def asks(name="codex", number=1):
    inputs = [{"type": "text", "text": "mend it", "path": ""}]
    given = {"inputs": inputs, "thread_id": None}
    return function_call(name, given, call_id=str(number))


async def receipt_of(tool, *requests, limits=None, **policy):
    """The receipt of a run that calls `tool`; the ledger agrees with it."""
    requests = requests or (asks(tool.name),)
    agent = Agent("Desk", model=CountingModel(list(requests), "done"), tools=[tool])
    policy = {"llm_estimate": WorstCase(), "prices": PRICES} | policy
    async with open_memory() as ledger:
        for allocated in (usd("10"), tokens(10**9), risk_points(1000)):
            await ledger.set_budget("tenant:acme", allocated)
        async with governed_run(
            agent, "acme", ledger=ledger, policy=Policy(**policy), limits=limits
        ) as run:
            result = await run("go")
        await assert_settled(ledger)
        spent = {
            balance.spent.unit: balance.spent.amount
            for balance in (await ledger.balances(tenant="acme")).balances
            if balance.spent.amount
        }
    assert spent == {unit: total for unit, total in run.receipt.charged.items() if total}
    assert result.final_output == "done"
    return run.receipt


def lines(receipt):
    """(the tool's line, those of what it used of a model)."""
    tool = next(line for line in receipt.calls if line.kind.startswith("tool."))
    own = [line for line in receipt.calls if line.kind == "llm.completion" and "codex" in line.name]
    return tool, own


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch):
    monkeypatch.setattr(settlement, "_WARNED", set())


async def test_its_tokens_are_charged_at_the_price_of_its_model():
    receipt = await receipt_of(codex(default_thread_options=THREAD))
    tool, [line] = lines(receipt)
    assert (line.name, line.agent, line.episode) == ("openai:gpt-5-codex", "Desk", tool.episode)
    assert (line.tokens.input, line.tokens.cached, line.tokens.output) == (40_000, 30_000, 2_000)
    assert (line.actual, line.actual_source) == (line.charged, "usage")
    assert line.charged.amount == PRICE
    assert (line.outcome, line.estimated, line.reservation_id) == ("recorded", False, None)
    assert (tool.charged, tool.tokens) == (None, None)  # once, not on both
    assert receipt.by_model["openai:gpt-5-codex"] == {line.charged.unit: PRICE}
    assert "40000+2000" in str(receipt)


async def test_it_is_charged_in_the_unit_of_the_runs_llm_calls():
    receipt = await receipt_of(
        codex(default_thread_options=THREAD), llm_estimate=WorstCase(unit="TOKENS")
    )
    _, [line] = lines(receipt)
    assert line.charged == tokens(42_000)
    receipt = await receipt_of(codex(default_thread_options=THREAD), llm_estimate=risk_points(3))
    _, [line] = lines(receipt)
    assert (line.charged, line.estimated) == (risk_points(3), True)


async def test_an_unlisted_tools_default_does_not_stand_for_its_tokens():
    receipt = await receipt_of(codex(default_thread_options=THREAD), tools=ToolEstimateMap({}))
    tool, [line] = lines(receipt)
    assert tool.charged == risk_points(1)
    assert line.charged.amount == PRICE


@pytest.mark.parametrize("price", [usd("0"), usd("0.25")])
async def test_a_price_in_the_users_map_wins(price, caplog):
    receipt = await receipt_of(codex(default_thread_options=THREAD), tools={"codex": price})
    tool, own = lines(receipt)
    assert own == []
    assert (tool.charged or usd("0")) == price
    assert tool.tokens == USED  # and they are seen all the same
    assert not [record for record in caplog.records if record.name.startswith("comptroller")]


async def test_what_actual_says_wins():
    def actual(arguments, result):
        return usd("0.01") if result.usage.output_tokens == 2_000 else usd("9")

    price = ToolEstimateConfig(usd("0.5"), actual=actual)
    receipt = await receipt_of(codex(default_thread_options=THREAD), tools={"codex": price})
    tool, own = lines(receipt)
    assert own == []
    assert (tool.charged, tool.actual_source, tool.tokens) == (usd("0.01"), "tool", USED)


async def test_a_model_without_a_name_is_charged_an_estimate_and_told_once(caplog):
    caplog.set_level(logging.WARNING, "comptroller")
    for _ in range(2):
        receipt = await receipt_of(codex())
        _, [line] = lines(receipt)
        assert (line.charged, line.estimated) == (usd("0.005"), True)
        assert line.tokens == USED
        assert "(estimate)" in str(receipt)
    [told] = [r.getMessage() for r in caplog.records if "no price is known" in r.getMessage()]
    assert 'prices={"codex:default": Price(' in told


@pytest.mark.parametrize("alias", ["openai:gpt-5-codex", Price("1", "1")])
async def test_the_model_without_a_name_takes_an_alias(alias):
    receipt = await receipt_of(codex(), prices=PRICES | {"codex:default": alias})
    _, [line] = lines(receipt)
    assert line.charged.amount == (PRICE if isinstance(alias, str) else 42_000 * 100)
    assert not line.estimated


async def test_a_gateways_address_decides_as_for_any_model(caplog):
    """A local server behind a known model's name is never silently charged a hosted price."""
    caplog.set_level(logging.WARNING, "comptroller")
    player = Player(SAID, DONE, base_url="http://localhost:8000/v1")
    tool = codex_tool(CodexToolOptions(codex=player, default_thread_options=THREAD))
    await receipt_of(tool)
    assert any("private address" in record.getMessage() for record in caplog.records)


async def test_a_turn_without_a_usage_is_charged_its_estimate():
    """Law 3: it ran to its end, and what it used is not known."""
    receipt = await receipt_of(
        codex(SAID, {"type": "turn.completed"}, default_thread_options=THREAD)
    )
    _, [line] = lines(receipt)
    assert (line.estimated, line.tokens) == (True, None)
    assert line.charged.amount > 0


async def test_one_that_failed_says_that_its_tokens_are_not_known():
    receipt = await receipt_of(codex(SAID, FAILED, default_thread_options=THREAD))
    tool, own = lines(receipt)
    assert own == []
    assert "without saying what its model used" in tool.reason


async def test_calls_at_the_same_time_are_charged_each():
    receipt = await receipt_of(codex(default_thread_options=THREAD), asks(number=1), asks(number=2))
    _, own = lines(receipt)
    assert [line.charged.amount for line in own] == [PRICE, PRICE]


async def test_a_tool_that_hands_on_what_codex_answered_is_charged_too():
    @function_tool
    async def ask_codex() -> str:
        return CodexToolResult("thread-1", "mended", Usage(**USAGE))

    receipt = await receipt_of(ask_codex, function_call("ask_codex", {}, call_id="1"))
    _, [line] = lines(receipt)
    assert (line.name, line.charged) == ("codex:default", usd("0.005"))


async def test_its_tokens_count_in_the_limits_of_the_run():
    for limits in (Limits(tokens=41_000), Limits(spend=usd("0.02"))):
        with pytest.raises(LimitReached):
            await receipt_of(codex(default_thread_options=THREAD), limits=limits)


async def test_a_dry_run_shows_it_and_charges_nothing():
    receipt = await receipt_of(codex(default_thread_options=THREAD), dry_run=True)
    _, [line] = lines(receipt)
    assert (line.outcome, line.charged, line.actual.amount) == ("unreserved", None, PRICE)
    assert line.tokens == USED


async def test_a_strategy_that_fails_for_it_does_not_let_it_go_free(caplog):
    class Table:
        def estimate(self, request, prices):
            return {"CountingModel": usd("0.01")}[request.model.rpartition(":")[2]]

    receipt = await receipt_of(codex(default_thread_options=THREAD), llm_estimate=Table())
    _, [line] = lines(receipt)
    assert line.charged.amount == PRICE
    assert any("llm_estimate failed" in record.getMessage() for record in caplog.records)


async def test_where_the_sdk_keeps_the_options_elsewhere_the_model_is_unknown(monkeypatch):
    tool = codex(default_thread_options=THREAD)
    invoke = tool.on_invoke_tool

    async def wrapped(context, given):
        return await invoke(context, given)

    tool.on_invoke_tool = wrapped
    assert sdk_internals.codex_options(tool) == (None, None)
    receipt = await receipt_of(tool)
    _, [line] = lines(receipt)
    assert (line.name, line.estimated) == ("codex:default", True)


def test_the_options_are_where_they_are_looked_for():
    """Fails where the SDK has moved them."""
    thread, client = sdk_internals.codex_options(codex(default_thread_options=THREAD))
    assert thread.model == "gpt-5-codex"
    assert isinstance(client, CodexOptions)


def test_the_extension_is_not_imported_for_those_who_do_not_use_it():
    code = (
        "import sys, comptroller.runs, comptroller.openai_agents.codex as c;"
        "from comptroller.runtime.call import CallRequest;"
        "d = CallRequest(kind='tool', name='t', agent='A', episode='1');"
        "assert c.turn_of(object(), 'text', d) is None;"
        "assert not [m for m in sys.modules if '.codex.' in m and 'agents.ext' in m]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
