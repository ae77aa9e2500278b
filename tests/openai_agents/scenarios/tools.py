"""What is called: function tools in all their endings, MCP, shell, patch, computer, hosted."""

import asyncio
from typing import Any

from agents import (
    ApplyPatchTool,
    AsyncComputer,
    ComputerTool,
    CustomTool,
    ShellTool,
    StopAtTools,
)
from agents.editor import ApplyPatchResult
from agents.mcp import MCPServer
from agents.tool import ShellCallOutcome, ShellCommandOutput, ShellResult
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from openai.types.responses import (
    ResponseCodeInterpreterToolCall,
    ResponseComputerToolCall,
    ResponseCustomToolCall,
    ResponseFileSearchToolCall,
    ResponseFunctionWebSearch,
)
from openai.types.responses.response_computer_tool_call import ActionScreenshot
from openai.types.responses.response_function_web_search import ActionSearch

from openai_agents.scenarios.registry import Scenario, register
from support.governed_vs_plain import Play
from support.recording_models import assistant_message, call

SCENARIOS: list[Scenario] = []
scenario = register(SCENARIOS)


def calling(trace, *tools, turns=None, **fields):
    """An agent that calls `weather` and answers."""
    turns = ([call("weather")], "It is sunny.") if turns is None else turns
    return trace.agent("Triage agent", "quick", *turns, tools=list(tools), **fields)


@scenario()
def a_tool(trace):
    return Play(calling(trace, trace.tool()))


@scenario()
def a_synchronous_tool(trace):
    return Play(calling(trace, trace.tool(lambda: "sunny")))


@scenario()
def three_tools_at_once(trace):
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"after {seconds}"

    calls = [call("weather", n, seconds=float(3 - n)) for n in range(3)]
    turns = (calls, [call("clock")], "Done.")
    return Play(
        calling(trace, trace.tool(slow), trace.tool(name_override="clock"), turns=turns),
        unordered=True,
    )


@scenario()
def a_tool_that_raises(trace):
    async def broken() -> str:
        raise ValueError("out of order")

    return Play(calling(trace, trace.tool(broken)))


@scenario()
def a_tool_that_raises_with_a_text_of_its_own(trace):
    async def broken() -> str:
        raise ValueError("out of order")

    tool = trace.tool(broken, failure_error_function=lambda context, error: f"sorry: {error}")
    return Play(calling(trace, tool))


@scenario()
def a_tool_that_raises_through(trace):
    async def broken() -> str:
        raise ValueError("out of order")

    return Play(calling(trace, trace.tool(broken, failure_error_function=None)))


@scenario()
def a_tool_that_raises_while_another_runs(trace):
    """Its sibling is cancelled; both had begun."""

    async def broken() -> str:
        await asyncio.sleep(1)
        raise ValueError("out of order")

    async def slow() -> str:
        await asyncio.sleep(60)
        return "never"

    tools = (
        trace.tool(broken, failure_error_function=None),
        trace.tool(slow, name_override="clock"),
    )
    turns = ([call("weather"), call("clock")],)
    return Play(calling(trace, *tools, turns=turns), unordered=True)


async def _for_ever() -> str:
    await asyncio.sleep(3600)
    return "never"


@scenario()
def a_tool_that_times_out(trace):
    return Play(calling(trace, trace.tool(_for_ever, timeout=2.0)))


@scenario()
def a_tool_whose_time_out_raises(trace):
    tool = trace.tool(_for_ever, timeout=2.0, timeout_behavior="raise_exception")
    return Play(calling(trace, tool))


@scenario()
def a_tool_called_with_nonsense(trace):
    async def typed(city: str) -> str:
        return city

    turns = ([call("weather", 1, town=5)], "Oh.")
    return Play(calling(trace, trace.tool(typed), turns=turns))


@scenario()
def a_tool_that_does_not_exist(trace):
    """The SDK rejects a response that has been paid for."""
    return Play(calling(trace, trace.tool(), turns=([call("no_such_tool")],)))


@scenario()
def the_first_tool_is_the_answer(trace):
    agent = calling(trace, trace.tool(), turns=([call("weather")],),
                    tool_use_behavior="stop_on_first_tool")  # fmt: skip
    return Play(agent)


@scenario()
def some_tools_are_the_answer(trace):
    tools = (trace.tool(), trace.tool(name_override="clock"))
    turns = ([call("weather")], [call("clock")])
    behaviour = StopAtTools(stop_at_tool_names=["clock"])
    return Play(calling(trace, *tools, turns=turns, tool_use_behavior=behaviour))


class Almanac(MCPServer):
    """An MCP server in memory."""

    def __init__(self, trace) -> None:
        super().__init__()
        self.trace = trace

    @property
    def name(self) -> str:
        return "almanac"

    async def connect(self) -> None:
        pass

    async def cleanup(self) -> None:
        pass

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[MCPTool]:
        schema = {"type": "object", "properties": {}}
        return [MCPTool(name=name, inputSchema=schema) for name in ("moon", "tides")]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> Any:
        self.trace.tools.append(tool_name)
        if tool_name == "tides":
            raise ConnectionError("the sea is closed")
        return CallToolResult(content=[TextContent(type="text", text="full")])

    async def list_prompts(self) -> Any:
        return None

    async def get_prompt(self, name: str, arguments: Any = None) -> Any:
        return None


@scenario()
def tools_of_an_mcp_server(trace):
    turns = ([call("moon")], [call("tides")], "A full moon.")
    return Play(calling(trace, turns=turns, mcp_servers=[Almanac(trace)]))


@scenario()
def a_custom_tool(trace):
    async def run(context: Any, given: str) -> str:
        trace.tools.append("sql")
        return given.upper()

    asked = ResponseCustomToolCall(type="custom_tool_call", call_id="c1", name="sql", input="all")
    tool = CustomTool(name="sql", description="asks", on_invoke_tool=run)
    return Play(calling(trace, tool, turns=([asked], "Nothing.")))


@scenario()
def a_shell(trace):
    """Two calls in one response, without a tool context."""

    async def run(request: Any) -> ShellResult:
        trace.tools.append("shell")
        said = " ".join(request.data.action.commands)
        exited = ShellCallOutcome(type="exit", exit_code=0)
        return ShellResult(output=[ShellCommandOutput(stdout=said, outcome=exited)])

    asked = [
        {"type": "shell_call", "id": f"s{n}", "call_id": f"s{n}", "status": "completed",
         "action": {"type": "exec", "commands": [f"echo {n}"]}}
        for n in (1, 2)
    ]  # fmt: skip
    return Play(calling(trace, ShellTool(executor=run), turns=(asked, "Said.")))


@scenario()
def a_shell_that_fails(trace):
    async def run(request: Any) -> str:
        trace.tools.append("shell")
        raise OSError("no shell")

    asked = {"type": "shell_call", "id": "s", "call_id": "s", "status": "completed",
             "action": {"type": "exec", "commands": ["ls"]}}  # fmt: skip
    return Play(calling(trace, ShellTool(executor=run), turns=([asked], "Not said.")))


@scenario()
def a_patch(trace):
    class Editor:
        def create_file(self, operation: Any) -> ApplyPatchResult:
            trace.tools.append("apply_patch")
            return ApplyPatchResult(status="completed", output="made")

        update_file = delete_file = create_file

    asked = {"type": "apply_patch_call", "id": "p", "call_id": "p", "status": "completed",
             "operation": {"type": "create_file", "path": "a.txt", "diff": "+a"}}  # fmt: skip
    return Play(calling(trace, ApplyPatchTool(editor=Editor()), turns=([asked], "Patched.")))


class Screen(AsyncComputer):
    """A computer that can be looked at."""

    def __init__(self, trace) -> None:
        self.trace = trace

    environment = "browser"
    dimensions = (10, 10)

    async def screenshot(self) -> str:
        self.trace.heard.append("screenshot")
        return "aGk="

    async def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    click = double_click = scroll = type = wait = move = keypress = drag = _nothing


@scenario()
def a_computer(trace):
    asked = ResponseComputerToolCall(
        id="k", type="computer_call", call_id="k", status="completed", pending_safety_checks=[],
        action=ActionScreenshot(type="screenshot"),
    )  # fmt: skip
    screen = Screen(trace)
    screen.screenshot = _noted(trace, "computer_use_preview", screen.screenshot)
    return Play(calling(trace, ComputerTool(computer=screen), turns=([asked], "I see.")))


def _noted(trace, name, inner):
    async def noted(*args: Any) -> Any:
        if name not in trace.tools:
            trace.tools.append(name)
        return await inner(*args)

    return noted


@scenario()
def tools_that_the_provider_ran(trace):
    """They are inside the LLM call: their items are recorded as events, at the tool's estimate."""
    output = [
        ResponseFunctionWebSearch(
            id="w", type="web_search_call", status="completed",
            action=ActionSearch(type="search", query="weather"),
        ),
        ResponseCodeInterpreterToolCall(
            id="i", type="code_interpreter_call", status="completed", code="1", container_id="c",
            outputs=[],
        ),
        ResponseFileSearchToolCall(id="f", type="file_search_call", status="completed", queries=[]),
        assistant_message("Sunny."),
    ]  # fmt: skip
    events = tuple(
        ("tool.hosted", name, 2) for name in ("web_search", "code_interpreter", "file_search")
    )
    return Play(trace.agent("Triage agent", "quick", output), events=events)
