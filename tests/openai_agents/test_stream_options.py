"""`stream_options` go to a provider where the SDK sends them, and nowhere else.

The SDK asks OpenAI itself for usage in a stream; other servers refuse what they do not know
(Mistral 422, an older Azure API 400), so it leaves them alone, unless
`ModelSettings(include_usage=...)` says what to send. A governed run sends what the SDK sends alone.
"""

import json

import httpx
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI

from support.scope_fixture import open_books

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def chunk(delta, reason=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    body = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": choices, **more}  # fmt: skip
    return f"data: {json.dumps(body)}\n\n"


class Provider:
    """Notes what it is sent; `strict` refuses what it does not know."""

    def __init__(self, address, *, strict):
        self.sent, self.strict = [], strict
        transport = httpx.MockTransport(self.answer)
        self.client = AsyncOpenAI(base_url=address, api_key="k", max_retries=0,
                                  http_client=httpx.AsyncClient(transport=transport))  # fmt: skip

    def answer(self, request):
        body = json.loads(request.content)
        body.pop("prompt_cache_key", None)  # another one every time
        self.sent.append(body)
        if self.strict and "stream_options" in body:
            return httpx.Response(422, json={"detail": "extra_forbidden"})
        said = chunk({"role": "assistant", "content": "hello"}) + chunk({}, "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            said += chunk(None, usage=USAGE)
        return httpx.Response(
            200, text=said + "data: [DONE]\n\n", headers={"content-type": "text/event-stream"}
        )


async def read(agent):
    stream = Runner.run_streamed(agent, "hi")
    try:
        async for _ in stream.stream_events():
            pass
    except Exception as error:  # noqa: BLE001 - it is compared
        return type(error), str(error)
    return stream.final_output


ADDRESSES = {"OpenAI": "https://api.openai.com/v1", "another": "http://provider/v1"}
SETTINGS = {
    "left open": {},
    "asked for": {"include_usage": True},
    "not wanted": {"include_usage": False},
    "written out": {"extra_args": {"stream_options": {"include_usage": True}}},
    "in the body": {"extra_body": {"stream_options": {"include_usage": True}}},
}


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_stream_is_asked_for_as_the_sdk_asks_alone(address, settings, strict):
    ways = []
    for governed in (False, True):
        provider = Provider(ADDRESSES[address], strict=strict)
        model = OpenAIChatCompletionsModel("gpt-4.1-mini", openai_client=provider.client)
        given = ModelSettings(**SETTINGS[settings])
        agent = Agent("A", model=model, model_settings=given)
        if governed:
            async with open_books(agent) as books:
                said = await read(agent)
        else:
            said = await read(agent)
        ways.append((said, provider.sent))
    assert ways[0] == ways[1]
    if said == "hello":
        (line,) = books.run.receipt.calls
        told = (provider.sent[0].get("stream_options") or {}).get("include_usage")
        assert line.actual_source == ("usage" if told else "estimate")
