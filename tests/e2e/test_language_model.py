"""What the end-to-end tests stand on: the model's server without anything of ours.

It answers on both of OpenAI's protocols, what it reports is what it counts, and it never outlives
the process that started it.
"""

import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from agents import OpenAIChatCompletionsModel, Runner

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

STARTS_A_MODEL = """
import time
from language_model import LocalModel
with LocalModel() as model:
    print(model.address, flush=True)
    time.sleep(600)
"""


async def test_reported_usage_is_what_the_server_counted(speaker, count):
    """Plain: prompt, cached and generated tokens."""
    with anyio.fail_after(30):
        result = await Runner.run(speaker(24), "Name three rivers.")
        counted = await count()
    usage = result.context_wrapper.usage
    assert usage.output_tokens == counted.generated == 24
    assert usage.input_tokens_details.cached_tokens == counted.cached
    assert usage.total_tokens == counted.total


async def test_usage_reported_at_a_streams_end_is_what_the_server_counted(speaker, count):
    """Streamed, where Chat Completions are asked for it."""
    with anyio.fail_after(30):
        stream = Runner.run_streamed(speaker(24, include_usage=True), "Name three seas.")
        async for _ in stream.stream_events():
            pass
        counted = await count()
    usage = stream.context_wrapper.usage
    assert usage.output_tokens == counted.generated == 24
    assert usage.total_tokens == counted.total


@pytest.mark.parametrize("speaker", [OpenAIChatCompletionsModel], indirect=True)
async def test_chat_completions_stream_no_usage_unless_asked_for_it(speaker, count):
    """A governed run cannot rely on what was not asked for: zero is reported, 24 were written."""
    with anyio.fail_after(30):
        stream = Runner.run_streamed(speaker(24, include_usage=None), "Name three lakes.")
        async for _ in stream.stream_events():
            pass
        counted = await count()
    assert (stream.context_wrapper.usage.total_tokens, counted.generated) == (0, 24)


async def test_tokens_of_a_request_given_up_are_counted(speaker, server, count):
    """The server stops early and counts what it wrote until then."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(Runner.run, speaker(1500), "Tell me everything about lakes.")
            await server.generating(10)
            group.cancel_scope.cancel()
        counted = await count()
    assert 10 <= counted.generated < 1500


@pytest.mark.usefixtures("server")
def test_the_model_ends_with_the_process_that_started_it():
    """Killed without a chance to clean up. The model holds the error pipe until it has ended."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent,
    ) as starter:
        assert starter.stdout.readline().startswith(b"http://127.0.0.1:")
        starter.kill()
        starter.communicate(timeout=10)
