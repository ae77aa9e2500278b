"""A model that pauses for its tools, without a usage, and reports the sum at the end.

One answer of the provider is one call with one reservation, however often it pauses (law 2): its
sum is charged once. One that does not go on has run, and is charged what policy says (law 3).
"""

from types import SimpleNamespace

import pytest
from agents import Agent, ModelBehaviorError, function_tool
from agents.extensions.experimental.hosted_multi_agent import OpenAIHostedMultiAgentModel

from comptroller import Policy, governed_run, open_ledger, tokens

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"}
ROOT = {"agent_name": "/root"}
SAID = {"type": "message", "id": "m_1", "role": "assistant", "status": "completed",
        "phase": "final_answer", "agent": ROOT,
        "content": [{"type": "output_text", "text": "done", "annotations": []}]}  # fmt: skip
USAGE = {"input_tokens": 300, "output_tokens": 45, "total_tokens": 345,
         "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
         "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
TEMPLATE = {"id": "resp_1", "object": "response", "created_at": 0, "model": "gpt-4.1",
            "output": [], "tools": [], "tool_choice": "auto",
            "parallel_tool_calls": False}  # fmt: skip
BEGINNING = [
    {"type": "response.created", "sequence_number": 0, "response": TEMPLATE},
    {"type": "response.output_item.done", "sequence_number": 1, "output_index": 0, "item": CALL},
]
END = [
    {"type": "response.inject.created", "sequence_number": 2},
    {"type": "response.output_item.done", "sequence_number": 3, "output_index": 1, "item": SAID},
    {"type": "response.completed", "sequence_number": 4,
     "response": {**TEMPLATE, "status": "completed", "output": [CALL, SAID], "usage": USAGE}},
]  # fmt: skip


class Provider:
    """Its client, connection manager and connection in one: it sends what it was given."""

    def __init__(self, events):
        self.events, self.sent = list(events), []
        self.beta = self.responses = self
        self._connection = SimpleNamespace(send=self.send)

    def connect(self, **_):
        return self

    async def enter(self):
        return self

    async def send(self, event):
        self.sent.append(event)

    async def recv(self):
        if not self.events:
            raise ConnectionResetError("lost")
        return self.events.pop(0)

    async def close(self):
        pass


SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "agent": ROOT,
          "action": {"type": "search", "query": "q"}}  # fmt: skip


async def played(events, *, streamed, **options):
    return (await all_played(events, streamed=streamed, **options))[:2]


async def all_played(events, *, streamed, **options):
    @function_tool
    def look() -> str:
        return "seen"

    model = OpenAIHostedMultiAgentModel("gpt-4.1", Provider(events))
    agent = Agent("Root", model=model, tools=[look], **options)
    async with open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", tokens(10**6))
        policy = Policy(llm_estimate=tokens(900))
        problem = None
        async with governed_run(agent, "acme", ledger=ledger, policy=policy) as run:
            try:
                if streamed:
                    _ = [event async for event in run.stream("go")]
                else:
                    await run("go")
            except (ConnectionResetError, ModelBehaviorError) as error:
                problem = error
        [budget] = await ledger.budgets()
    lines = [line for line in run.receipt.calls if line.kind == "llm.completion"]
    assert not budget.reserved.amount
    assert budget.spent.amount == sum(line.charged.amount for line in lines)
    told = [(line.outcome.value, line.charged.amount, line.actual_source) for line in lines]
    return told, problem, run.receipt.calls


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_in_pieces_is_charged_its_sum_once(streamed):
    lines, problem = await played([*BEGINNING, *END], streamed=streamed)
    assert (lines, problem) == ([("committed", 345, "usage")], None)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_ends_at_its_pause_is_charged_its_estimate(streamed):
    lines, _ = await played(BEGINNING, streamed=streamed, tool_use_behavior="stop_on_first_tool")
    assert lines == [("abandoned", 900, "estimate")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_breaks_off_after_its_pause_is_charged_its_estimate(streamed):
    lines, problem = await played(BEGINNING, streamed=streamed)
    assert lines == [("abandoned", 900, "estimate")]
    assert problem is not None


@pytest.mark.parametrize("ends", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_provider_ran_before_the_pause_is_recorded_once(streamed, ends):
    """The end of an answer in pieces may show all of it again."""
    searched = {**BEGINNING[1], "item": SEARCH}
    end = {**END[-1]["response"], "status": ends, "output": [SEARCH, CALL, SAID]}
    events = [BEGINNING[0], searched, {**BEGINNING[1], "output_index": 1, "sequence_number": 2},
              *END[:-1], {**END[-1], "type": f"response.{ends}", "response": end}]  # fmt: skip
    *_, calls = await all_played(events, streamed=streamed)
    assert [line.name for line in calls if line.kind == "tool.hosted"] == ["web_search"]
