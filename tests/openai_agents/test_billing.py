"""What a call is charged by all that its answer says: tiers, searches, caches, a cost of its own.

The rules:
- What the provider bills is charged; what it reports as its cost wins over every price.
- The terms that an answer names win over those that were asked for.
- A user's model, and what it is asked and answers, is not changed by listening to it.
"""

import json
from fractions import Fraction

import httpx
import pytest
from agents import (
    Agent,
    Model,
    ModelBehaviorError,
    ModelResponse,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    Usage,
    set_tracing_disabled,
)
from agents.testing import assistant_message
from openai import AsyncAzureOpenAI, AsyncOpenAI

from comptroller import (
    Policy,
    Price,
    TokenCount,
    governed_run,
    open_ledger,
    risk_points,
    tokens,
    usd,
)
from comptroller.openai_agents import billing
from comptroller.openai_agents.raw_responses import RawAnswer, overheard

pytestmark = pytest.mark.anyio
set_tracing_disabled(True)

OPENAI, GROQ, OPENROUTER, XAI = (
    "https://api.openai.com/v1", "https://api.groq.com/openai/v1",
    "https://openrouter.ai/api/v1", "https://api.x.ai/v1",
)  # fmt: skip
USED = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}


def served(url, answer, *, kind=AsyncOpenAI, **client):
    """A client of `url`, whose every request gets `answer`. `client.asked`: the requests."""
    asked = []

    def handle(request):
        asked.append(json.loads(request.content))
        if asked[-1].get("stream"):
            chunks = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in answer)
            return httpx.Response(200, text=chunks + "data: [DONE]\n\n",
                                  headers={"content-type": "text/event-stream"})  # fmt: skip
        return httpx.Response(200, json=answer)

    transport = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    address = {"base_url": url} if kind is AsyncOpenAI else {"azure_endpoint": url}
    made = kind(api_key="k", http_client=transport, max_retries=0, **address, **client)
    made.asked = asked
    return made


def chat(used, **beside):
    choice = {"index": 0, "finish_reason": "stop",
              "message": {"role": "assistant", "content": "yes"}}  # fmt: skip
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [choice], "usage": used, **beside}  # fmt: skip


def chunks(used, **beside):
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **beside}
    said = {"index": 0, "delta": {"role": "assistant", "content": "yes"}, "finish_reason": None}
    done = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return [{**head, "choices": [said]}, {**head, "choices": [done]},
            {**head, "choices": [], "usage": used}]  # fmt: skip


def response(items=(), used=None, **beside):
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed",
               "content": [{"type": "output_text", "text": "yes", "annotations": []}]}  # fmt: skip
    return {"id": "r", "object": "response", "created_at": 0, "model": "m", "status": "completed",
            "output": [*items, message], "parallel_tool_calls": False, "tool_choice": "auto",
            "tools": [], "usage": used or {
                "input_tokens": 1_600, "output_tokens": 1_000, "total_tokens": 2_600,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0}}, **beside}  # fmt: skip


async def line_of(model, *, stream=False, settings=None, fails=None, budget=None, **policy):
    """The receipt's line of a single call of `model`."""
    agent = Agent("A", model=model, model_settings=settings or ModelSettings())
    async with open_ledger("memory:") as ledger:
        for amount in (usd("100"), budget or tokens(10**6)):
            await ledger.set_budget("tenant:acme", amount)
        async with governed_run(agent, "acme", ledger=ledger, policy=Policy(**policy)) as run:
            if fails is not None:
                with pytest.raises(fails):
                    await run("hi")
            elif stream:
                async for _ in run.stream("hi"):
                    pass
            else:
                await run("hi")
    return run.receipt.calls[0]


# -- terms

TIERS = [
    ({}, "default", 2), ({}, "flex", 1), ({}, "priority", 4), ({}, None, 2),
    ({"service_tier": "flex"}, None, 1), ({"service_tier": "flex"}, "default", 2),
    ({"service_tier": "priority"}, "priority", 4), ({"service_tier": "auto"}, "flex", 1),
]  # fmt: skip
GPT_5_FLEX = 1_000 * 62.5 + 100 * 500  # microcents: $0.625 in and $5 out per million


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["extra_args", "extra_body"])
@pytest.mark.parametrize(("asked", "named", "factor"), TIERS)
async def test_the_tier_that_an_answer_names_is_charged(asked, named, factor, where, stream):
    beside = {} if named is None else {"service_tier": named}
    answer = chunks(USED, **beside) if stream else chat(USED, **beside)
    model = OpenAIChatCompletionsModel("gpt-5", served(OPENAI, answer))
    line = await line_of(model, stream=stream, settings=ModelSettings(**{where: asked}))
    assert (line.charged.amount, line.actual_source) == (GPT_5_FLEX * factor, "usage")


async def test_the_tier_that_is_asked_for_is_estimated():
    reserved = [
        (await line_of(OpenAIChatCompletionsModel("gpt-5", served(OPENAI, chat(USED))),
                       settings=ModelSettings(extra_args={"service_tier": tier}))).reserved.amount
        for tier in ("flex", "default", "priority")
    ]  # fmt: skip
    assert [-(-reserved[1] // 2), -(-reserved[2] // 4)] == [reserved[0]] * 2  # each is rounded up


async def test_the_responses_api_names_its_tier_too():
    answer = response(service_tier="priority")
    line = await line_of(OpenAIResponsesModel("gpt-5", served(OPENAI, answer)))
    assert line.charged.amount == 1_600 * 250 + 1_000 * 2_000


# -- who sells


@pytest.mark.parametrize("stream", [False, True])
async def test_the_address_of_the_client_tells_who_sells(stream):
    answer = chunks(USED) if stream else chat(USED)
    model = OpenAIChatCompletionsModel("openai/gpt-oss-120b", served(GROQ, answer))
    line = await line_of(model, stream=stream)
    assert line.charged.amount == 1_000 * 15 + 100 * 60  # $0.15 and $0.60 at Groq


class Wrapped(Model):
    """A wrapper, as people write them."""

    def __init__(self, model):
        self.model = model

    async def get_response(self, *args, **kwargs):
        return await self.model.get_response(*args, **kwargs)

    def stream_response(self, *args, **kwargs):
        return self.model.stream_response(*args, **kwargs)


def test_a_wrapper_is_served_where_its_model_is():
    inner = OpenAIChatCompletionsModel("m", served(GROQ, {}))
    looped = Wrapped(None)
    looped.model = looped
    assert billing.base_url(Wrapped(Wrapped(inner))) == GROQ + "/"
    assert billing.base_url(looped) is None


async def test_a_deployment_of_any_name_is_priced_as_the_model_that_answers():
    """Azure's requests name a deployment, its answers the model."""
    client = served("https://acme.openai.azure.com", chat(USED, model="gpt-4.1-2025-04-14"),
                    kind=AsyncAzureOpenAI, api_version="2025-01-01")  # fmt: skip
    line = await line_of(OpenAIChatCompletionsModel("prod-large", client))
    assert (line.charged.amount, line.actual_source) == (1_000 * 200 + 100 * 800, "usage")
    declared = await line_of(OpenAIChatCompletionsModel("prod-large", client),
                             prices={"prod-large": Price("1", "1")})  # fmt: skip
    assert declared.charged.amount == 1_100 * 100


async def test_a_guessed_price_is_said_once_and_a_declared_one_is_not(caplog, monkeypatch):
    monkeypatch.setattr("comptroller.runtime.settlement._WARNED", set())
    model = OpenAIChatCompletionsModel("gpt-4.1", served("http://127.0.0.1:8000/v1", chat(USED)))
    free = await line_of(model, prices={"openai:gpt-4.1": Price("0", "0")})
    assert (free.actual, free.actual_source, caplog.messages) == (usd(0), "usage", [])
    for _ in range(2):
        guessed = await line_of(model)
    assert guessed.charged.amount == 1_000 * 200 + 100 * 800
    [said] = caplog.messages
    assert 'prices={"openai:gpt-4.1": Price("0", "0")}' in said


# -- the provider's own cost

COSTS = [
    (OPENROUTER, {"cost": 0.0123}, usd("0.0123")),
    (OPENROUTER, {"cost": 0}, usd(0)),
    (OPENROUTER, {"cost": 0.1 + 0.2}, usd("0.3")),
    (OPENROUTER, {"cost": 0.001, "is_byok": False,
                  "cost_details": {"upstream_inference_cost": 0.001}}, usd("0.001")),
    (OPENROUTER, {"cost": 0.001, "is_byok": True,
                  "cost_details": {"upstream_inference_cost": 0.019}}, usd("0.02")),
    ("https://api.perplexity.ai", {"cost": {"input_tokens_cost": 0.1, "total_cost": 0.25}},
     usd("0.25")),
    (XAI, {"cost_in_usd_ticks": 37_756_000}, usd("0.0037756")),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("url", "told", "cost"), COSTS)
async def test_a_cost_that_the_provider_reports_wins(url, told, cost, stream):
    used = {**USED, **told}
    client = served(url, chunks(used) if stream else chat(used))
    line = await line_of(OpenAIChatCompletionsModel("gpt-5", client), stream=stream)
    assert (line.charged, line.actual_source) == (cost, "reported")
    assert line.tokens == TokenCount(input=1_000, output=100)


async def test_a_reported_cost_wins_over_a_declared_price_and_over_no_price_at_all():
    client = served(OPENROUTER, chat({**USED, "cost": 0.5}))
    for prices in (None, {"unheard/of": Price("1", "1")}):
        model = OpenAIChatCompletionsModel("unheard/of", client)
        assert (await line_of(model, prices=prices)).charged == usd("0.5")


async def test_a_budget_of_tokens_is_charged_tokens_whatever_they_cost():
    model = OpenAIChatCompletionsModel("gpt-5", served(OPENROUTER, chat({**USED, "cost": 0.5})))
    line = await line_of(model, llm_estimate=tokens(5_000))
    assert (line.charged, line.actual_source) == (tokens(1_100), "usage")


@pytest.mark.parametrize(
    "wrong",
    [-1, True, "0.5", None, [], {}, float("nan"), float("inf"), -0.1, 1e300, {"total_cost": "1"}],
)
def test_a_cost_that_is_none_is_not_taken_for_one(wrong):
    assert billing.reported_cost({"cost": wrong}) is None


async def test_raw_usage_that_a_models_response_carries_is_read():
    class Reporting(Model):
        model = "gpt-5"

        async def get_response(self, *args, **kwargs):
            used = Usage(requests=1, input_tokens=10, output_tokens=1, total_tokens=11)
            return ModelResponse([assistant_message("hi")], used, None, raw_usage={"cost": 0.25})

        def stream_response(self, *args, **kwargs):
            raise AssertionError("not streamed")

    line = await line_of(Reporting())
    assert (line.charged, line.actual_source) == (usd("0.25"), "reported")


@pytest.mark.parametrize(("upstream", "cost"), [(None, None), (0.2, usd("0.2"))])
def test_what_a_client_library_has_calculated_is_not_what_the_provider_reports(upstream, cost):
    """LiteLLM writes its own sum into the usage of a stream, and keeps the provider's aside."""
    raw, used = RawAnswer(), {**USED, "cost": 0.7}
    raw.note({"usage": used, "_hidden_params": {"upstream_usage_cost": upstream}})
    assert billing.finished(None, raw, "litellm:gpt-5", ()).said.cost == cost


# -- hosted tools


def searches(count, action="search"):
    return [{"id": f"w{n}", "type": "web_search_call", "status": "completed",
             "action": {"type": action, "query": "q", "url": "https://example.com"}}
            for n in range(count)]  # fmt: skip


def file_search():
    return {"id": "f", "type": "file_search_call", "status": "completed", "queries": ["q"]}


TOKENS = 1_600 * 40 + 1_000 * 160  # microcents of gpt-4.1-mini: $0.40 and $1.60 per million


@pytest.mark.parametrize(
    ("items", "beside"),
    [
        ([], 0),
        (searches(5), 5_000_000),
        ([*searches(1), file_search(), file_search()], 1_000_000 + 2 * 250_000),
        (searches(3, "open_page"), 0),
    ],
)
async def test_searches_cost_what_the_provider_asks_for_them(items, beside):
    """Five searches of gpt-4.1-mini: $0.05224 where tokens alone are $0.00224."""
    model = OpenAIResponsesModel("gpt-4.1-mini", served(OPENAI, response(items)))
    assert (await line_of(model)).charged.amount == TOKENS + beside


async def test_a_hosted_tool_that_the_users_map_prices_is_charged_once():
    model = OpenAIResponsesModel("gpt-4.1-mini", served(OPENAI, response(searches(2))))
    line = await line_of(model, tools={"web_search": usd("0.02")})
    assert line.charged.amount == TOKENS
    line = await line_of(model, tools={"web_search": 3}, budget=risk_points(10))
    assert line.charged.amount == TOKENS + 2_000_000


# -- counts


@pytest.mark.parametrize(
    ("reported", "counted"),
    [
        # reasoning beside completion_tokens, in the total alone (xAI; Gemini without details)
        ({**USED, "total_tokens": 1_600, "completion_tokens_details": {"reasoning_tokens": 500}},
         TokenCount(1_000, output=600, reasoning=500)),
        ({**USED, "total_tokens": 1_400}, TokenCount(1_000, output=400)),
        ({"total_tokens": 50}, TokenCount(output=50)),
        # what was cached beside the input
        ({"input_tokens": 10, "output_tokens": 1, "total_tokens": 911,
          "input_tokens_details": {"cached_tokens": 900}}, TokenCount(910, 900, 1)),
        ({**USED, "total_tokens": 1_600, "prompt_tokens_details": {"cached_tokens": 500},
          "completion_tokens_details": {"reasoning_tokens": 500}},
         TokenCount(1_000, 500, 600, 500)),
        # a total that says less than its parts says nothing
        ({**USED, "total_tokens": 7}, TokenCount(1_000, output=100)),
        ({**USED, "total_tokens": None}, TokenCount(1_000, output=100)),
        # caches of an hour, sound, images, searches
        ({"input_tokens": 30, "output_tokens": 1, "cache_creation_input_tokens": 20,
          "cache_creation": {"ephemeral_1h_input_tokens": 15}},
         TokenCount(30, 0, 1, 0, 20, {"cache_write_1h_tokens": 15})),
        ({**USED, "prompt_tokens_details": {"audio_tokens": 600, "image_tokens": 100},
          "completion_tokens_details": {"audio_tokens": 60}},
         TokenCount(1_000, output=100, extras={
             "input_audio_tokens": 600, "input_image_tokens": 100, "output_audio_tokens": 60})),
        ({**USED, "server_tool_use": {"web_search_requests": 3}},
         TokenCount(1_000, output=100, extras={"web_searches": 3})),
    ],
)  # fmt: skip
def test_all_that_was_produced_is_counted(reported, counted):
    assert billing.token_count(reported) == counted


class Whole:
    """An integer that is none, as `numpy.int64`."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Broken:
    """A number that raises."""

    def __int__(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize("number", [7, 7.0, Fraction(7), Fraction(14, 2), Whole(7)])
def test_a_whole_number_of_any_type_is_one(number):
    assert billing.whole_number(number) == 7
    assert billing.token_count({"input_tokens": number, "output_tokens": 1}).input == 7


@pytest.mark.parametrize(
    "wrong",
    [None, True, "7", b"7", 7.5, -7, Whole(-7), float("nan"), float("inf"), [], {}, Broken()],
)
def test_what_is_no_count_counts_nothing(wrong):
    assert billing.whole_number(wrong) == 0


async def test_an_answer_that_the_sdk_rejects_is_charged_what_it_used():
    cut = {"index": 0, "finish_reason": "length", "message": {"role": "assistant"}}
    client = served(OPENAI, chat(USED, choices=[cut]))
    line = await line_of(OpenAIChatCompletionsModel("gpt-4.1", client), fails=ModelBehaviorError)
    assert (line.charged.amount, line.actual_source) == (1_000 * 200 + 100 * 800, "usage")


# -- nothing of the user's is changed


class Own(OpenAIChatCompletionsModel):
    """A subclass with state, and a hand on what is fetched."""

    fetched = 0

    async def _fetch_response(self, *args, **kwargs):
        self.fetched += 1
        return await super()._fetch_response(*args, **kwargs)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # alone, the SDK knows no other
async def test_a_model_that_is_listened_to_is_asked_and_keeps_its_state_as_alone():
    alone, governed = (Own("gpt-5", served(OPENAI, chat(USED))) for _ in range(2))
    result = await Runner.run(Agent("A", model=alone), "hi")
    await line_of(governed)
    assert result.final_output == "yes"
    asked = [{**each._client.asked[0], "prompt_cache_key": ""} for each in (alone, governed)]
    assert asked[0] == asked[1]
    assert (governed.fetched, alone.fetched) == (1, 1)
    assert vars(governed).keys() == vars(alone).keys()


def test_a_model_that_is_not_of_the_sdk_is_asked_itself():
    class Fetching(Wrapped):
        async def _fetch_response(self):
            return None

    for model in (Wrapped(None), Fetching(None)):
        assert overheard(model)[0] is model


def test_a_model_that_takes_no_subclass_is_asked_itself():
    class Final(OpenAIChatCompletionsModel):
        def __init_subclass__(cls):
            raise TypeError("no heirs")

    model = Final("m", served(OPENAI, {}))
    assert overheard(model)[0] is model
