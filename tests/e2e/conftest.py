"""A real model, the SDK's two ways to talk to it, and a ledger kept in tokens."""

import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel
from openai import AsyncOpenAI

from comptroller import open_ledger
from e2e.constants import exactly
from e2e.language_model import LocalModel, missing


@pytest.fixture
def anyio_backend():
    """asyncio: the model is slow. One test here runs a program on trio."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(request):
    """The model's process. `-m e2e` insists on it; elsewhere its tests are skipped without it."""
    if lack := missing():
        insists = request.config.option.markexpr == "e2e"
        (pytest.fail if insists else pytest.skip)(lack)
    with LocalModel() as server:
        yield server


@pytest.fixture
async def count(server):
    """What the server has counted since the test began, after it has become idle."""
    await server.idle()
    before = server.count()

    async def since():
        await server.idle()
        return server.count() - before

    return since


@pytest.fixture(params=[OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def speaker(request, server):
    """`speaker(tokens)`: an agent whose answer has exactly that many tokens."""
    async with AsyncOpenAI(
        base_url=f"{server.address}/v1", api_key="none", max_retries=0
    ) as client:
        model = request.param(model="smollm2", openai_client=client)

        def agent(tokens, name="Speaker", **settings):
            settings = exactly(tokens, **settings)
            return Agent(name, instructions="Be brief.", model=model, model_settings=settings)

        yield agent


@pytest.fixture
async def ledger(tmp_path):
    """An embedded ledger on disk."""
    async with open_ledger(str(tmp_path / "ledger.db")) as ledger:
        yield ledger
