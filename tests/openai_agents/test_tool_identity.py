"""A call is known by what is its own: never by the context of another call.

Inside an agent that is used as a tool, the SDK hands the callbacks of shell, computer and patch
tools a context of the *outer* call: its id is that call's, and so are its arguments.
"""

import asyncio

import pytest
from agents import Agent, ApplyPatchTool, CustomTool, ShellTool, function_tool
from agents.editor import ApplyPatchResult
from agents.testing import function_call
from openai.types.responses import (
    ResponseApplyPatchToolCall,
    ResponseCustomToolCall,
    ResponseFunctionShellToolCall,
)
from openai.types.responses.response_apply_patch_tool_call import OperationCreateFile
from openai.types.responses.response_function_shell_tool_call import Action

from comptroller import ToolEstimateConfig, ToolEstimateMap, risk_points
from comptroller.testing import CountingModel
from support.scope_fixture import open_books

pytestmark = pytest.mark.anyio


class Editor:
    async def create_file(self, operation):
        await asyncio.sleep(0.005)
        return ApplyPatchResult(output="written")

    update_file = delete_file = create_file


async def execute(request):
    await asyncio.sleep(0.01)
    return "listed"


def shell_call(number):
    return ResponseFunctionShellToolCall(
        id=f"i{number}", call_id=f"s{number}", type="shell_call", status="completed",
        action=Action(commands=["ls"]),
    )  # fmt: skip


PATCH = ResponseApplyPatchToolCall(
    id="i9", call_id="p1", type="apply_patch_call", status="completed",
    operation=OperationCreateFile(type="create_file", path="note.txt", diff="+hi"),
)  # fmt: skip
CUSTOM = ResponseCustomToolCall(
    type="custom_tool_call", call_id="u1", name="raw", input='{"of": "raw"}'
)


class Costs:
    """A tool map whose `actual` functions note what they are given."""

    def __init__(self):
        self.given = []
        self.map = ToolEstimateMap({
            name: ToolEstimateConfig(risk_points(reserved), actual=self.actual(name, cost))
            for name, (reserved, cost) in
            {"shell": (7, 5), "apply_patch": (3, 2), "raw": (4, 1), "weather": (6, 4)}.items()
        } | {"work": risk_points(0)})  # fmt: skip

    def actual(self, name, cost):
        def actual(arguments, result):
            self.given.append((name, arguments, result))
            return risk_points(cost)

        return actual


@function_tool
async def weather(city: str) -> str:
    return f"sunny in {city}"


def chief(*calls, name="work", tools=(), turns=1):
    """An agent whose tool is an agent that makes all these calls in each of its turns."""

    async def invoke(context, given):
        return given

    worker = Agent(
        name="Worker",
        model=CountingModel(*[list(calls)] * turns, "done"),
        tools=[
            ShellTool(executor=execute),
            ApplyPatchTool(editor=Editor()),
            CustomTool(name="raw", description="as it is", on_invoke_tool=invoke),
            weather,
            *tools,
        ],
    )
    asked = [function_call(name, {"input": "go"}, call_id="c1")]
    return Agent(
        name="Chief", model=CountingModel(asked, "all done"), tools=[worker.as_tool(name, "works")]
    )


async def played(agent, **policy):
    costs = Costs()
    async with open_books(agent, tools=costs.map, **policy) as books:
        await books.run("go")
        await asyncio.sleep(0.02)
        still = [balance.reserved.amount for balance in await books.ledger.budgets()]
    assert set(still) == {0}
    return costs, sorted(tool for tool in books.tools() if tool[0] != "work")


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
class TestInsideAnAgentThatIsATool:
    async def test_each_tool_is_settled_by_its_own_end(self):
        calls = [
            shell_call(1),
            PATCH,
            CUSTOM,
            function_call("weather", {"city": "Oslo"}, call_id="w1"),
        ]
        costs, tools = await played(chief(*calls), on_abandoned="release")
        assert tools == [
            ("apply_patch", "committed", 2), ("raw", "committed", 1),
            ("shell", "committed", 5), ("weather", "committed", 4),
        ]  # fmt: skip
        assert sorted(costs.given, key=str) == [
            ("apply_patch", None, "written"), ("raw", {"of": "raw"}, '{"of": "raw"}'),
            ("shell", None, "listed"), ("weather", {"city": "Oslo"}, "sunny in Oslo"),
        ]  # fmt: skip

    async def test_two_of_a_kind_are_two_calls(self):
        _, tools = await played(chief(shell_call(1), shell_call(2)), on_abandoned="release")
        assert tools == [("shell", "committed", 5)] * 2

    @pytest.mark.parametrize("name", ["shell", "apply_patch"])
    async def test_an_outer_tool_may_have_the_inner_ones_name(self, name):
        costs = Costs()
        async with open_books(chief(shell_call(1), PATCH, name=name), tools=costs.map) as books:
            await books.run("go")
        assert sorted(of for of, _, _ in costs.given) == sorted(["shell", "apply_patch", name])

    async def test_what_was_reserved_ahead_goes_to_the_call_it_was_reserved_for(self):
        """The inner agent's function call has, by chance, the id of the outer one."""
        inner = function_call("weather", {"city": "Oslo"}, call_id="c1")
        _, tools = await played(chief(shell_call(1), inner), on_tool_denied="tell_model")
        assert tools == [("shell", "committed", 5), ("weather", "committed", 4)]

    async def test_agents_that_work_at_once_and_share_their_tools_are_told_apart(self):
        shared = ShellTool(executor=execute)
        workers = [
            Agent(f"Worker {n}", model=CountingModel([shell_call(n)], "done"), tools=[shared])
            for n in range(3)
        ]
        asked = [function_call(f"w{n}", {"input": "go"}, call_id=f"c{n}") for n in range(3)]
        tools = [worker.as_tool(f"w{n}", "works") for n, worker in enumerate(workers)]
        agent = Agent("Chief", model=CountingModel(asked, "all done"), tools=tools)
        costs = Costs()
        async with open_books(agent, tools=costs.map, on_abandoned="release") as books:
            await books.run("go")
        assert [tool for tool in books.tools() if tool[0] == "shell"] == [
            ("shell", "committed", 5)
        ] * 3
