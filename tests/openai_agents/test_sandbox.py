"""Sandbox agents: their shell is a tool like any other, and what writes their memory is a run."""

import json

import pytest
from agents import RunConfig, Runner
from agents.run_config import SandboxRunConfig
from agents.sandbox import SandboxAgent
from agents.sandbox.capabilities import Filesystem, Memory, Shell
from agents.sandbox.config import MemoryGenerateConfig
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient

from support.governed_vs_plain import OTHER_TOOLS
from support.recording_models import Trace, Voice, call
from support.scope_fixture import open_books

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
    pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"]),
]

ECHO = call("exec_command", cmd="echo hello > greeting; cat greeting")
REMEMBERED = json.dumps({"rollout_summary": "He greeted.", "rollout_slug": "g", "raw_memory": "x"})


def speaking(*turns):
    return Voice(Trace(), "gpt-4.1", *turns)


async def performed(agent, streamed):
    config = RunConfig(
        sandbox=SandboxRunConfig(client=UnixLocalSandboxClient()), tracing_disabled=True
    )
    if not streamed:
        return await Runner.run(agent, "go", run_config=config)
    result = Runner.run_streamed(agent, "go", run_config=config)
    async for _ in result.stream_events():
        pass
    return result


async def test_a_sandbox_agent_runs_as_it_does_alone_and_its_shell_has_a_line(streamed):
    """Also what is made of its model's name: when the provider is to compact its context."""
    said, asked = [], []
    for governed in (False, True):
        voice = speaking([ECHO], "Done.")
        agent = SandboxAgent("Builder", model=voice, instructions="Build.")
        if governed:
            async with open_books(agent) as books:
                result = await performed(agent, streamed)
        else:
            result = await performed(agent, streamed)
        assert result.last_agent is agent
        said.append(result.final_output)
        asked.append([attempt.settings.extra_args for attempt in voice.trace.attempts])
    assert said == ["Done.", "Done."]
    assert asked[0] == asked[1]
    assert asked[0][0]["context_management"]
    assert books.outcomes() == [("Builder", "committed")] * 2
    assert books.tools() == [("exec_command", "committed", OTHER_TOOLS)]


async def test_the_models_that_write_a_sandboxs_memory_are_governed(streamed):
    voice = speaking("Done.", REMEMBERED, "Remembered.")
    memory = Memory(generate=MemoryGenerateConfig(phase_one_model=voice, phase_two_model=voice))
    agent = SandboxAgent(
        "Builder", model=voice, instructions="Build.", capabilities=[Filesystem(), Shell(), memory]
    )
    async with open_books(agent) as books:
        await performed(agent, streamed)
    assert books.outcomes() == [
        ("Builder", "committed"),
        ("sandbox-memory-phase-one", "committed"),
        ("sandbox-memory-phase-two", "committed"),
    ]
