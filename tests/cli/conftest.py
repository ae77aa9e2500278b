"""A directory to work in, with agents in a module, and a budget in a ledger."""

import sys

import pytest

from support.cli import done

AGENTS = """
import asyncio
import sys
import threading

import agents
from agents import Agent, Usage, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

agents.set_tracing_disabled(True)


class Scripted(ScriptedModel):
    model = "gpt-4.1-mini"


USAGE = Usage(requests=1, input_tokens=1000, output_tokens=20, total_tokens=1020)


def says(text):
    return ModelStep(output=[assistant_message(text)], usage=USAGE)


def calls(tool, number=1):
    return ModelStep(output=[function_call(tool, {"n": 1}, call_id=f"call-{number}")], usage=USAGE)


def an_agent(*steps, name="Triage agent", **settings):
    return Agent(name=name, model=Scripted(steps), tools=[look, block], **settings)


@function_tool
async def look(n: int) -> str:
    return "it is there"


@function_tool
def block(n: int) -> str:
    print("blocked", file=sys.stderr, flush=True)
    threading.Event().wait()
    return "never"


async def never(call):
    print("asked", file=sys.stderr, flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("given up", file=sys.stderr, flush=True)


agent = an_agent(calls("look"), says("All is [red]well[/red].\\nReally."))
loop = an_agent(*(calls("look", n) for n in range(50)), name="Loop")
sleeper = an_agent(ModelStep.respond(never), name="Sleeper")
blocker = an_agent(calls("block"), name="Blocker")
failing = an_agent(ZeroDivisionError("the agent\\nitself"), name="Failing")
number = 3


class Place:
    inner = an_agent(says("from inside"))


def make():
    return an_agent(says("made"))


def cannot():
    raise KeyError("key")
"""


@pytest.fixture(autouse=True)
def _terminal_of_nobody(monkeypatch):
    """How wide and colourful the terminal is of who runs the tests is not their business."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The current directory: `desk.py` with agents, and `ledger.db` with $1 of acme's."""
    path, known = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desk.py").write_text(AGENTS)
    done("budget", "set", "tenant:acme", "1usd", "--ledger", "ledger.db")
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
