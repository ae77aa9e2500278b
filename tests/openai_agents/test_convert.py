"""The SDK's values read as ours: tokens, names of models, errors, hosted tools."""

import enum
from pathlib import PurePath
from types import SimpleNamespace
from typing import get_args
from unittest import mock

import pytest
from agents import Usage
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from openai.types.responses import ResponseOutputItem, ResponseUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from comptroller import governed_run, tokens
from comptroller.core.pricing import TokenCount
from comptroller.openai_agents import billing, convert
from comptroller.testing import CountingModel
from openai_agents.scenarios.models import retrying, status_error
from support.governed_vs_plain import Way, open_ledgers, policy_for
from support.recording_models import Trace, Turn, call, told
from support.scope_fixture import open_books

READ = InputTokensDetails(cached_tokens=30, cache_write_tokens=4)
MADE = OutputTokensDetails(reasoning_tokens=2)
FULL = TokenCount(input=100, cached=30, cache_write=4, output=20, reasoning=2)


def hosted_tools(output):
    """The names of the tools that the provider ran inside the call."""
    return [tool for tool, _ in billing.hosted_calls(output)]


@pytest.mark.parametrize(
    ("reported", "counted"),
    [
        (told(FULL), FULL),
        (ResponseUsage(input_tokens=100, output_tokens=20, total_tokens=120,
                       input_tokens_details=READ, output_tokens_details=MADE), FULL),
        (SimpleNamespace(input_tokens=5, output_tokens=0), TokenCount(input=5)),
        (SimpleNamespace(input_tokens=0, output_tokens=5), TokenCount(output=5)),
        (SimpleNamespace(input_tokens=5, output_tokens=None, input_tokens_details=None),
         TokenCount(input=5)),
        (SimpleNamespace(input_tokens=-5, output_tokens=3), TokenCount(output=3)),
        (SimpleNamespace(input_tokens="5", output_tokens=3.5), None),
        ({"input_tokens": 100, "output_tokens": 20,
          "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 4},
          "output_tokens_details": {"reasoning_tokens": 2}}, FULL),
        ({}, None),
        ("nonsense", None),
        (Usage(), None),
        (Usage(requests=1), None),
        (None, None),
        (SimpleNamespace(), None),
    ],
)  # fmt: skip
def test_tokens_are_what_was_reported_and_unknown_where_nothing_was(reported, counted):
    """A usage of zero tokens is no usage: no model answers without reading anything."""
    assert billing.token_count(reported) == counted


CLIENT = SimpleNamespace(base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("model", "asked_for", "name"),
    [
        (OpenAIResponsesModel("gpt-4.1", CLIENT), None, "openai:gpt-4.1"),
        (OpenAIChatCompletionsModel("gpt-4o", CLIENT), "gpt-4o", "openai:gpt-4o"),
        (CountingModel(), "house-model", "models:house-model"),
        (CountingModel(), None, "models:CountingModel"),
    ],
)
def test_models_are_named_by_provider_and_model(model, asked_for, name):
    assert convert.model_name(model, asked_for) == name


class Names(enum.StrEnum):
    MINI = "gpt-4.1-mini"


class Kinds(str, enum.Enum):  # noqa: UP042 - its `str()` is not its value
    MINI = "gpt-4.1-mini"


class Unclear:
    """Neither its truth nor its text can be told, as with an array."""

    def __bool__(self):
        raise ValueError("ambiguous")

    __str__ = __repr__ = __eq__ = __bool__
    __hash__ = None


class Itself:
    @property
    def model(self):
        return self


class Holding(CountingModel):
    def __init__(self, kept):
        super().__init__()
        self.model = kept


class Unloaded(CountingModel):
    @property
    def model(self):
        raise RuntimeError("not loaded yet")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Holding(Names.MINI), "test_convert:gpt-4.1-mini"),
        (Holding(Kinds.MINI), "test_convert:gpt-4.1-mini"),
        (Holding(OpenAIResponsesModel("gpt-4.1", CLIENT)), "openai:gpt-4.1"),
        (Holding(Holding(OpenAIResponsesModel("gpt-4.1", CLIENT))), "openai:gpt-4.1"),
        (Holding(PurePath("models/small.gguf")), "test_convert:small.gguf"),
        (Holding(Unclear()), "test_convert:Holding"),
        (Holding(Itself()), "test_convert:Holding"),
        (Holding(mock.MagicMock()), "test_convert:Holding"),
        (Holding(Unloaded()), "test_convert:Holding"),
        (Holding(enum), "test_convert:Holding"),
        (Holding(7), "test_convert:Holding"),
        (Holding(b"gpt-4.1"), "test_convert:Holding"),
        (Holding(""), "test_convert:Holding"),
        (Unloaded(), "test_convert:Unloaded"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_models_attribute_model_may_be_anything(model, name):
    """A name is taken from what is known to be one, and made of nobody's text or truth."""
    assert convert.model_name(model, None) == name


def test_a_name_of_a_model_is_as_long_as_a_message_can_carry():
    assert len(convert.model_name(Holding("m" * 100_000), None)) == 200


def tokens_of(*content):
    """The tokens that an estimate sees in this content beyond those of an empty one."""
    text = len(str([{"role": "user", "content": [{**part, key: ""} for part, key in content]}]))
    given = [{"role": "user", "content": [part for part, _ in content]}]
    return round((convert.input_characters(None, given, []) - text) / 4)


def photo(**fields):
    data = "data:image/jpeg;base64," + "A" * 2**20
    return {"type": "input_image", "image_url": data, **fields}, "image_url"


@pytest.mark.parametrize(
    ("attached", "least", "most"),
    [
        (photo(), 2_500, 5_000),
        (photo(detail="auto"), 2_500, 5_000),
        (photo(detail="high"), 2_500, 5_000),
        (photo(detail="low"), 256, 1_000),
        (photo(detail="original"), 9_990, 10_010),
        (photo(detail=None), 2_500, 5_000),
        (({"type": "input_image", "image_url": "https://example.com/a.png"}, "image_url"),
         2_500, 5_000),
        (({"type": "input_image", "file_id": "file-1", "image_url": None}, "image_url"),
         2_500, 5_000),
        (({"type": "image_url", "image_url": {"url": "A" * 10**6}}, "image_url"), 2_500, 5_000),
        (({"type": "image_url", "image_url": {"url": "A" * 10**6, "detail": "low"}}, "image_url"),
         256, 1_000),
        (photo(detail=["no", "detail"]), 2_500, 5_000),
        (({"type": "computer_screenshot", "image_url": "A" * 10**6}, "image_url"), 2_500, 5_000),
        (({"type": "image_generation_call", "result": "A" * 10**6}, "result"), 2_500, 5_000),
        (({"type": "input_file", "file_data": "A" * 8_000}, "file_data"), 1_490, 1_510),
        (({"type": "input_file", "file_data": "A" * 10**7}, "file_data"), 1_000_000, 1_050_010),
        (({"type": "input_file", "file_id": "file-1", "file_data": None}, "file_data"), 0, 1),
    ],
)  # fmt: skip
def test_what_is_attached_is_not_counted_by_its_base64(attached, least, most):
    """A model reads an image as a bounded number of tokens, however many bytes it has."""
    assert least <= tokens_of(attached) <= most


def test_ten_seconds_of_sound_are_a_hundred_tokens_at_the_least():
    """At the lowest rate, 8 kbit/s; a recording at 128 kbit/s counts sixteen times as much."""

    def heard(size):
        part = {"type": "input_audio", "input_audio": {"data": "A" * size, "format": "mp3"}}
        silent = {"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}
        both = (convert.input_characters(None, [given], []) for given in (part, silent))
        return (next(both) - next(both)) / 4

    ten_seconds = 10 * 8_000 // 8 * 4 // 3
    assert 100 <= heard(ten_seconds) <= 102
    assert heard(16 * ten_seconds) < 1_650


def test_an_image_that_a_tool_gave_back_counts_as_one():
    part, _ = photo()
    output = {"type": "function_call_output", "call_id": "1", "output": [part]}
    assert convert.input_characters(None, [output], []) < 5_000 * 4


@pytest.mark.parametrize(
    ("system", "given", "tools", "size"),
    [
        (None, "four", [], 4),
        ("four", "four", [], 8),
        (1234, ["four", 12345678], [], 16),
        (None, [], [SimpleNamespace(name="four", description=None, params_json_schema="1234")], 8),
        (None, [], [SimpleNamespace(name="four", description=12)], 6),
    ],
)
def test_the_size_of_what_is_sent_is_told_whatever_that_is(system, given, tools, size):
    """Models take what the SDK hands on, such as instructions that are no text."""
    assert convert.input_characters(system, given, tools) == size


def test_hosted_tools_are_the_calls_that_nobody_here_ran():
    kinds = ["web_search_call", "function_call", "message", "mcp_call", "shell_call",
             "image_generation_call", "reasoning", "computer_call"]  # fmt: skip
    items = [SimpleNamespace(type=kind) for kind in kinds] + [{"type": "code_interpreter_call"}]
    assert hosted_tools(items) == ["web_search", "mcp", "image_generation",
                                         "code_interpreter"]  # fmt: skip


def shell_call(call_id, **where):
    return {"type": "shell_call", "call_id": call_id, "environment": where or None}


@pytest.mark.parametrize(
    ("items", "hosted"),
    [
        ([shell_call("1", type="container_reference", container_id="c")], ["shell"]),
        ([shell_call("1", type="container_auto")], ["shell"]),
        ([shell_call("1", type="local")], []),
        ([shell_call("1")], []),
        ([shell_call("1"), {"type": "shell_call_output", "call_id": "1"}], ["shell"]),
        ([shell_call("1"), {"type": "shell_call_output", "call_id": "2"}], []),
        ([shell_call(None), {"type": "shell_call_output", "call_id": None}], []),
        ([shell_call([]), {"type": "shell_call_output", "call_id": [[]]}], []),
        ([{"type": "tool_search_call", "execution": "server"}], ["tool_search"]),
        ([{"type": "tool_search_call", "execution": "client"}], []),
        ([{"type": "program"}, {"type": "program_output"}], ["programmatic_tool_calling"]),
        ([{"type": "mcp_list_tools"}, {"type": "compaction"}], []),
    ],
)
def test_what_can_run_here_or_there_says_where_it_ran(items, hosted):
    """A call is the provider's where its environment or its executor is, or its output is given."""
    assert hosted_tools(items) == hosted


def test_every_item_that_a_response_can_hold_is_sorted():
    """A kind that the SDK comes to know is looked at here, before it runs up a bill unseen."""
    [union, _] = get_args(ResponseOutputItem)
    kinds = {get_args(item.model_fields["type"].annotation)[0] for item in get_args(union)}
    hosted = {kind for kind in kinds if hosted_tools([{"type": kind}])}
    assert hosted == {
        "file_search_call", "web_search_call", "tool_search_call", "image_generation_call",
        "code_interpreter_call", "mcp_call", "program",
    }  # fmt: skip
    assert {kind for kind in kinds - hosted if kind.endswith("_call")} == {
        "function_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call",
        "custom_tool_call",
    }  # fmt: skip


@pytest.mark.parametrize("output", [None, "file_search_call", 7, [], [None, "x", {}, object()]])
def test_an_output_of_another_shape_holds_no_hosted_tools(output):
    assert hosted_tools(output) == []


class Unprintable(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("not even that")


def test_what_has_no_size_keeps_no_call_from_its_model():
    assert convert.input_characters("four", [Unprintable(), "four"], []) == 8


@pytest.mark.anyio
@pytest.mark.parametrize("remote", [False, True], ids=["memory", "remote"])
@pytest.mark.parametrize("error", [Unprintable, lambda: ValueError("\udcff" * 3 + "x" * 9000)])
async def test_an_error_of_any_text_reaches_the_caller_and_settles_the_call(error, remote):
    """Its text is made fit for a ledger; the error itself is not replaced."""
    trace = Trace()
    failure = error()
    agent = trace.agent("A", "quick", Turn(error=failure))
    async with open_ledgers(remote=remote) as (ledger, behind):
        await behind.set_budget("tenant:acme", tokens(10**6))
        async with governed_run(agent, "acme", ledger=ledger, policy=policy_for(Way())) as run:
            with pytest.raises(type(failure)) as caught:
                await run("go")
    assert caught.value is failure
    [line] = run.receipt.calls
    assert (line.outcome, line.charged) == ("abandoned", tokens(40_000))
    assert line.reason.startswith(type(failure).__name__)
    assert len(line.reason) < 300


@pytest.mark.anyio
async def test_a_receipt_counts_the_attempts_of_each_turn():
    """From one, anew for each turn; each attempt has its own reservation and its own end."""
    trace = Trace()
    turns = [
        Turn(error=status_error(429), refused=True), Turn(error=status_error(500)),
        [call("weather")], Turn(error=status_error(503)), "Sunny.",
    ]  # fmt: skip
    agent = trace.agent("A", "quick", *turns, tools=[trace.tool()], model_settings=retrying())
    async with open_books(agent) as books:
        await books.run("go")
    lines = [line for line in books.lines if line.kind == "llm.completion"]
    assert [(line.attempt, line.outcome.value) for line in lines] == [
        (1, "released"), (2, "abandoned"), (3, "committed"), (1, "abandoned"), (2, "committed"),
    ]  # fmt: skip
    assert len({line.reservation_id for line in lines}) == 5
