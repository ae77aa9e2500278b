"""A session that is compacted by hand inside a scope is a governed call, as one of the SDK's is.

What asks a model in a scope is seen where it passes a method of the SDK's own, not only where it
passes a `Runner.run`; and where no run governs, that method is as without us.
"""

import asyncio
from types import SimpleNamespace

import pytest
from agents import Agent, Runner, SQLiteSession, function_tool
from agents.memory import OpenAIResponsesCompactionSession
from agents.testing import function_call

from comptroller import BudgetExceeded, tokens
from comptroller.testing import CountingModel
from support.scope_fixture import open_books

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]

FORCED = {"force": True, "compaction_mode": "input"}


class Client:
    """Stands in for AsyncOpenAI; `error` in place of an answer."""

    def __init__(self, error=None):
        self.asked, self.error = 0, error
        self.responses = self

    async def compact(self, **request):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            output=[{"type": "message", "role": "user", "content": "a summary"}],
            usage={"input_tokens": 500, "output_tokens": 50},
        )


@pytest.fixture
def compacting():
    """Makes a session that is compacted by hand only."""
    store = SQLiteSession("s")

    def make(client, kind=OpenAIResponsesCompactionSession):
        return kind(
            session_id="s", underlying_session=store, client=client, model="gpt-4.1",
            should_trigger_compaction=lambda _: False, compaction_mode="input",
        )  # fmt: skip

    yield make
    store.close()


def charged(books):
    return [
        (line.name, line.outcome.value, line.charged and line.charged.amount)
        for line in books.lines
        if line.name == "openai:gpt-4.1"
    ]


class Counting(OpenAIResponsesCompactionSession):
    """A subclass of the user's, with a method that goes on to the SDK's."""

    times = 0

    async def run_compaction(self, args=None, *, wrapper=None):
        self.times += 1
        await super().run_compaction(args, wrapper=wrapper)


@pytest.mark.parametrize("kind", [OpenAIResponsesCompactionSession, Counting])
async def test_it_is_charged_what_it_used(kind, compacting):
    client = Client()
    session = compacting(client, kind)
    agent = Agent("A", model=CountingModel("hello", "again"))
    async with open_books(agent) as books:
        await Runner.run(agent, "hi", session=session)
        await session.run_compaction(FORCED)
        assert session.client is client
        assert await session.get_items() == [
            {"type": "message", "role": "user", "content": "a summary"}
        ]
        await Runner.run(agent, "hi", session=session)
    assert charged(books) == [("openai:gpt-4.1", "committed", 550)]
    assert client.asked == 1
    assert type(session) is kind
    assert getattr(session, "times", 1) >= 1


async def test_in_a_tool_it_belongs_to_the_tools_episode(compacting):
    session = compacting(Client())

    @function_tool
    async def tidy() -> str:
        await session.run_compaction(FORCED)
        return "tidied"

    model = CountingModel([function_call("tidy", {}, call_id="c")], "done")
    agent = Agent("A", model=model, tools=[tidy])
    async with open_books(agent) as books:
        await session.add_items([{"role": "user", "content": "hi"}])
        await books.run("hi")
    (line,) = [line for line in books.lines if line.name == "openai:gpt-4.1"]
    assert (line.agent, line.episode) == ("A", "1")


async def test_where_it_does_not_fit_the_client_is_not_asked(compacting):
    client = Client()
    session = compacting(client)
    await session.add_items([{"role": "user", "content": "hi"}])
    agent = Agent("A", model=CountingModel())
    async with open_books(agent, {"tenant:acme": (tokens(10),)}) as books:
        with pytest.raises(BudgetExceeded):
            await session.run_compaction(FORCED)
    assert client.asked == 0
    assert [line.outcome for line in books.lines] == ["denied"]


@pytest.mark.parametrize("error", [ConnectionError("cut"), asyncio.CancelledError()])
async def test_one_that_fails_is_given_up(error, compacting):
    session = compacting(Client(error))
    await session.add_items([{"role": "user", "content": "hi"}])
    async with open_books(Agent("A", model=CountingModel())) as books:
        with pytest.raises(type(error)):
            await session.run_compaction(FORCED)
    assert [line.outcome for line in books.lines] == ["abandoned"]


async def test_outside_a_scope_it_is_the_sdks_own(compacting):
    client = Client()
    session = compacting(client)
    await session.add_items([{"role": "user", "content": "hi"}])
    async with open_books(Agent("A", model=CountingModel())) as books:
        pass
    await session.run_compaction(FORCED)
    assert client.asked == 1
    assert books.lines == ()
