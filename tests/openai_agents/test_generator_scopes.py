"""A scope in an async generator: which run governs what its reader does between two steps.

An async generator has no context of its own (PEP 568): what is set in it, its reader sees. So:

- code of a generator is governed by the scope that stands in it, whoever reads it besides;
- the code that reads a generator is not governed by the scope in it;
- the body of a scope that is made of a generator (`asynccontextmanager`, a fixture) is governed;
- `run(...)` is always its own run's.
"""

import asyncio
import contextlib
import sys

import pytest
from agents import Agent, Runner

from comptroller import governed_run, open_supervisor, tokens
from comptroller.ledger.embedded.memory import open_memory
from comptroller.testing import CountingModel
from support.agent_scenarios import policy

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]

TENANTS = ("acme", "globex")


def agent(name="A"):
    return Agent(name, model=CountingModel(*["hello"] * 9))


class Books:
    """Scopes of several tenants, and how many calls each was charged."""

    def __init__(self, ledger):
        self.ledger, self.runs = ledger, {}

    def scope(self, tenant):
        return governed_run(agent(), tenant, ledger=self.ledger, policy=policy())

    def calls(self):
        return {tenant: len(run.receipt.calls) for tenant, run in self.runs.items()}

    async def answers(self, tenant, *, inside=Runner.run):
        """A generator with a scope in it."""
        async with self.scope(tenant) as self.runs[tenant]:
            for _ in range(3):
                yield (await inside(agent(), "hi")).final_output


@pytest.fixture
async def books():
    async with open_memory() as ledger:
        for tenant in TENANTS:
            await ledger.set_budget(f"tenant:{tenant}", tokens(10**6))
        yield Books(ledger)


async def streamed(agent, given):
    result = Runner.run_streamed(agent, given)
    async for _ in result.stream_events():
        pass
    return result


def in_time(generator):
    return asyncio.wait_for(anext(generator), 5)


STEPS = [anext, in_time] if sys.version_info >= (3, 12) else [anext]
"""Before, `wait_for` took each step in a task of its own, whose context ends with the step."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("inside", [Runner.run, streamed])
async def test_generators_read_in_turn_are_charged_each_to_its_own_tenant(books, inside, step):
    one, other = (books.answers(tenant, inside=inside) for tenant in TENANTS)
    for _ in range(3):
        await step(one)
        await step(other)
        await inside(agent("Reader"), "mine")
    await one.aclose()
    await inside(agent("Reader"), "mine")
    await other.aclose()
    assert books.calls() == {"acme": 3, "globex": 3}


async def test_what_the_reader_runs_is_its_own_scopes(books):
    async with books.scope("globex") as books.runs["globex"]:
        async for _ in books.answers("acme"):
            await Runner.run(agent("Reader"), "mine")
    assert books.calls() == {"acme": 3, "globex": 3}


async def test_what_runs_ungoverned_is_so_with_all_that_is_nested_in_it(books):
    nested = agent("Nested")
    tool = nested.as_tool("ask", "knows")
    from agents.testing import function_call

    turns = [function_call("ask", {"input": "go"}, call_id="c")], "done"
    reader = Agent("Reader", model=CountingModel(*turns), tools=[tool])
    async for _ in books.answers("acme"):
        await Runner.run(reader, "mine")
        break
    assert books.calls() == {"acme": 1}


@pytest.mark.parametrize("stacked", [False, True])
async def test_the_body_of_a_scope_that_is_a_generator_is_governed(books, stacked):
    @contextlib.asynccontextmanager
    async def own_scope(tenant):
        async with books.scope(tenant) as run:
            yield run

    async with contextlib.AsyncExitStack() as stack:
        scope = own_scope("acme")
        books.runs["acme"] = await (
            stack.enter_async_context(scope) if stacked else scope.__aenter__()
        )
        await Runner.run(agent(), "hi")
        if not stacked:
            await scope.__aexit__(None, None, None)
    assert books.calls() == {"acme": 1}


async def test_such_a_scope_inside_a_generator_stands_in_that(books):
    @contextlib.asynccontextmanager
    async def own_scope(tenant):
        async with books.scope(tenant) as run:
            yield run

    async def answers():
        async with own_scope("acme") as books.runs["acme"]:
            while True:
                yield await Runner.run(agent(), "hi")

    generator = answers()
    for _ in range(2):
        await anext(generator)
        await Runner.run(agent("Reader"), "mine")
    await generator.aclose()
    assert books.calls() == {"acme": 2}


@pytest.fixture
async def governed(books):
    async with books.scope("acme") as books.runs["acme"]:
        yield books


async def test_what_a_test_runs_is_governed_by_its_fixtures_scope(governed):
    await Runner.run(agent(), "hi")
    assert governed.calls() == {"acme": 1}


async def test_who_is_stepped_through_by_somebody_that_has_gone_is_believed(books):
    """As frameworks do with what they inject: they step once, and call what is to be governed."""
    generator = books.answers("acme")

    async def enter():
        await anext(generator)

    await enter()
    await Runner.run(agent(), "hi")
    await generator.aclose()
    assert books.calls() == {"acme": 2}


async def test_a_run_is_its_own_wherever_it_is_started(books):
    one, other = (books.answers(tenant) for tenant in TENANTS)
    await anext(one)
    await anext(other)
    await books.runs["acme"]("hi")
    await one.aclose()
    await other.aclose()
    assert books.calls() == {"acme": 2, "globex": 1}


async def test_supervised_runs_in_generators_are_told_apart_too(books):
    async def answers(supervisor, tenant):
        async with supervisor.run(agent(), tenant) as books.runs[tenant]:
            while True:
                yield await Runner.run(agent(), "hi")

    async with open_supervisor(ledger=books.ledger, policy=policy()) as supervisor:
        generators = [answers(supervisor, tenant) for tenant in TENANTS]
        for _ in range(2):
            for generator in generators:
                await anext(generator)
        await Runner.run(agent("Reader"), "mine")
        for generator in generators:
            await generator.aclose()
    assert books.calls() == {"acme": 2, "globex": 2}
