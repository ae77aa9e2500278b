"""A real model, and the SDK's two ways to talk to it."""

import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel
from openai import AsyncOpenAI

from e2e.language_model import LocalModel, missing


@pytest.fixture
def anyio_backend(request):
    """asyncio, unless a test asks for trio: the model is slow, its protocol the same on both."""
    return getattr(request, "param", "asyncio")


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
            exactly = ModelSettings(max_tokens=tokens, extra_body={"ignore_eos": True}, **settings)
            return Agent(name, instructions="Be brief.", model=model, model_settings=exactly)

        yield agent
