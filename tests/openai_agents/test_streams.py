"""Streams: what is charged of a cut one, and that ours has the interface of the SDK's."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import anyio
import pytest
from agents import ModelBehaviorError, ModelSettings, Runner
from agents.result import RunResultStreaming
from openai.types.responses import ResponseFunctionWebSearch
from openai.types.responses.response_function_web_search import ActionSearch

from comptroller import RunCancelled, risk_points, tokens
from comptroller._eventloop import open_host
from support.recording_models import Trace, Turn, assistant_message, call
from support.scope_fixture import open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TEXT = "A long and winding answer, piece by piece."
INPUT = -(-len(str({"content": "go", "role": "user"})) // 4)


async def _pause():
    await asyncio.sleep(1)


def telling(trace, *more, **fields):
    """An agent whose answer takes a second for every five characters."""
    slow = Turn([assistant_message(TEXT)], between=_pause)
    return trace.agent("Teller", "quick", slow, *more, **fields)


def streamed(trace):
    """What a cut answer costs: the estimated input, and each piece that was sent."""
    return INPUT + sum(-(-len(piece) // 4) for piece in trace.attempts[0].heard)


async def pieces(stream, count):
    """Read until so many pieces of the answer have come."""
    seen = []
    async for event in stream:
        if event.type == "raw_response_event" and event.data.type.endswith("text.delta"):
            seen.append(event.data.delta)
            if len(seen) == count:
                break
    return seen


async def drained(stream):
    return [event async for event in stream]


def uncut(books):
    """Its stream came to its own end."""
    [line] = books.lines
    assert (line.outcome, line.charged) == ("committed", tokens(122))


def checked(books, trace, reason):
    """One abandoned line, charged what was streamed, which was neither nothing nor everything."""
    [line] = books.lines
    assert 2 <= len(trace.attempts[0].heard) <= 5
    assert (line.outcome, line.actual_source) == ("abandoned", "streamed")
    assert line.charged == tokens(streamed(trace))
    assert reason in line.reason


# -- cut by the consumer


async def test_a_stream_that_is_not_read_on_is_charged_what_was_streamed():
    """`break`, and the scope is left: its end ends the stream."""
    trace = Trace()
    async with open_books(telling(trace)) as books:
        assert await pieces(books.run.stream("go"), 2) == ["A lon", "g and"]
    checked(books, trace, "its scope was left")


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
async def test_the_sdks_own_cancel_ends_the_stream_quietly(mode):
    """At once, or when the turn is over: then it is charged in full."""
    trace = Trace()
    async with open_books(telling(trace, "never")) as books:
        stream = books.run.stream("go")
        await pieces(stream, 2)
        stream.cancel(mode)
        async for _ in stream:
            pass
        assert stream.is_complete
        await anyio.sleep(30)
    if mode == "immediate":
        checked(books, trace, "cancelled in flight")
    else:
        uncut(books)


async def test_a_cancelled_consumer_leaves_a_charged_stream():
    trace = Trace()
    async with open_books(telling(trace)) as books:
        with anyio.move_on_after(2.5) as scope:
            async for _ in books.run.stream("go"):
                pass
        assert scope.cancelled_caught
    checked(books, trace, "cancelled in flight")


async def test_a_stream_that_nobody_reads_ends_with_its_scope():
    """Under asyncio it starts at once; under trio with its first event, so here never."""
    trace = Trace()
    async with open_books(telling(trace)) as books:
        stream = books.run.stream("go")
        await anyio.sleep(2.5)
        assert stream is not None
    assert [line.outcome for line in books.lines] in ([], ["abandoned"])


async def test_a_run_that_is_cancelled_cuts_its_stream_loudly():
    """The iteration raises: a cut stream must not look complete."""
    trace = Trace()
    async with open_books(telling(trace)) as books:
        stream = books.run.stream("go")
        await pieces(stream, 2)
        books.run.cancel("user closed the tab")
        with pytest.raises(RunCancelled, match="user closed the tab"):
            await pieces(stream, 100)
    checked(books, trace, "user closed the tab")


async def test_a_streams_end_is_its_end():
    """Read on after it, it has no more; and the run goes on."""
    trace = Trace()
    agent = trace.agent("Teller", "quick", "One.", "Two.")
    async with open_books(agent) as books:
        stream = books.run.stream("go")
        assert [event async for event in stream]
        assert [event async for event in stream] == []
        assert (await books.run("go on")).final_output == "Two."


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_stream_is_closed_as_the_sdks_own(cancelled):
    """It waits for the run's end, and has no more; cancelled first, that end is now."""
    trace = Trace()
    async with open_books(telling(trace)) as books:
        async with aclosing(books.run.stream("go").stream_events()) as stream:
            await pieces(stream, 2)
            if cancelled:
                stream.cancel()
        assert stream.is_complete
        assert not any(line.in_flight for line in books.lines)
        assert await drained(stream) == []
    if cancelled:
        checked(books, trace, "cancelled in flight")
    else:
        uncut(books)


async def test_a_stream_that_is_closed_before_it_is_read():
    trace = Trace()
    async with open_books(telling(trace)) as books:
        await books.run.stream("go").aclose()


async def test_closing_a_stream_whose_run_was_cancelled():
    trace = Trace()
    async with open_books(telling(trace)) as books:
        async with aclosing(books.run.stream("go")) as stream:
            await pieces(stream, 2)
            books.run.cancel("enough")
        with pytest.raises(RunCancelled, match="enough"):
            await drained(stream)
    checked(books, trace, "enough")


# -- the SDK's own function


@pytest.mark.parametrize("how", ["break", "aclose", "cancel", "read"])
async def test_the_sdks_own_stream_is_governed_inside_the_scope(how):
    """`Runner.run_streamed`, with the SDK's own result object, ended in each way.

    Closing the SDK's generator of events waits for the run's own end: nothing is cut.
    """
    trace = Trace()
    agent = telling(trace)

    async def drive():
        result = Runner.run_streamed(agent, "go")
        assert type(result) is RunResultStreaming
        events = result.stream_events()
        await pieces(events, 1000 if how == "read" else 2)
        if how == "aclose":
            await events.aclose()
        if how == "cancel":
            result.cancel()

    async with open_books(agent) as books:
        async with open_host() as host:
            await host.aio(drive)()
    if how in ("read", "aclose"):
        uncut(books)
    else:
        checked(books, trace, "")


async def test_the_sdks_own_stream_is_cut_loudly_when_the_run_is_cancelled():
    trace = Trace()
    agent = telling(trace)

    async def drive():
        result = Runner.run_streamed(agent, "go")
        events = result.stream_events()
        await pieces(events, 2)
        books.run.cancel("enough")
        with pytest.raises(RunCancelled, match="enough"):
            await pieces(result.stream_events(), 100)

    async with open_books(agent) as books:
        async with open_host() as host:
            await host.aio(drive)()
    checked(books, trace, "enough")


# -- interface and settings


async def test_a_stream_has_the_whole_interface_of_the_sdks():
    """Every public attribute, once it has begun."""
    trace = Trace()
    agent = trace.agent("Teller", "quick", [call("weather")], "One.", tools=[trace.tool()])
    async with open_books(agent) as books:
        stream = books.run.stream("go")
        async for _ in stream.stream_events():
            pass
        offered = {name for name in dir(RunResultStreaming) if not name.startswith("_")}
        offered |= {name for name in vars(stream._result) if not name.startswith("_")}
        missing = [name for name in offered if not hasattr(stream, name)]
        assert missing == []
        assert stream.last_agent is agent
        assert stream.final_output_as(str) == "One."
        assert stream.to_state() is not None
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = stream.no_such_thing


@pytest.mark.parametrize("own", [None, False, True])
async def test_what_a_stream_is_asked_for_is_left_to_the_user_and_to_the_sdk(own):
    trace = Trace()
    settings = ModelSettings(include_usage=own)
    agent = trace.agent("Teller", "quick", "One.", "Two.", model_settings=settings)
    async with open_books(agent) as books:
        async for _ in books.run.stream("go"):
            pass
        await books.run("go on")
    assert [attempt.settings.include_usage for attempt in trace.attempts] == [own, own]
    assert settings.include_usage is own


async def test_a_stream_that_ends_without_its_last_event_is_charged_its_estimate():
    """Its usage is unknown, never zero."""
    trace = Trace()
    agent = trace.agent("Teller", "quick", "One.")
    inner = agent.model.stream_response

    async def torn(*args, **kwargs):
        async for event in inner(*args, **kwargs):
            if event.type != "response.completed":
                yield event

    agent.model.stream_response = torn
    async with open_books(agent) as books:
        with pytest.raises(Exception, match=r"."):
            async for _ in books.run.stream("go"):
                pass
    [line] = books.lines
    assert (line.charged, line.actual_source) == (tokens(40_000), "estimate")


ODD = {
    "nothing": None,
    "a number": 7,
    "an object": object(),
    "an empty dict": {},
    "a delta that is no text": SimpleNamespace(type="response.output_text.delta", delta=[1]),
    "an end without a response": SimpleNamespace(type="response.completed", response=None),
    "an end without a field for it": SimpleNamespace(type="response.completed"),
    "a type that is no text": SimpleNamespace(type=7, response=7),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_an_event_of_any_shape_passes_and_the_stream_is_settled_by_what_is_known(odd):
    """Models of other providers send what the SDK does not look at."""
    trace = Trace()
    agent = trace.agent("Teller", "quick", "One.")
    inner = agent.model.stream_response

    async def strange(*args, **kwargs):
        yield odd
        async for event in inner(*args, **kwargs):
            yield event

    agent.model.stream_response = strange
    async with open_books(agent) as books:
        stream = books.run.stream("go")
        seen = await drained(stream)
    assert odd in [event.data for event in seen if event.type == "raw_response_event"]
    assert stream.final_output == "One."
    [line] = books.lines
    assert (line.outcome, line.charged, line.actual_source) == ("committed", tokens(122), "usage")


@pytest.mark.parametrize(
    ("response", "charged"),
    [
        (None, tokens(40_000)),
        ({}, tokens(40_000)),
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, tokens(7)),
        ({"usage": 3, "output": 4}, tokens(40_000)),
    ],
)
async def test_an_end_of_any_shape_gets_the_sdks_own_error_and_is_settled(response, charged):
    trace = Trace()
    agent = trace.agent("Teller", "quick", "One.")

    async def strange(*_args, **_kwargs):
        yield {"type": "response.output_text.delta", "delta": "One."}
        yield {"type": "response.completed", "response": response}

    agent.model.stream_response = strange
    async with open_books(agent) as books:
        with pytest.raises(ModelBehaviorError, match="did not produce a final response"):
            await drained(books.run.stream("go"))
    [line] = books.lines
    assert (line.outcome, line.charged) == ("committed", charged)


@pytest.mark.parametrize("answer", [None, "text", SimpleNamespace(output=None)])
async def test_an_answer_that_is_none_gets_the_error_that_it_gets_without_us(answer):
    """It was billed, for all that is known."""
    trace = Trace()
    agent = trace.agent("Teller", "quick", "One.")

    async def strange(*_args, **_kwargs):
        return answer

    agent.model.get_response = strange
    async with open_host() as host:
        with pytest.raises(Exception, match=r".") as alone:
            await host.aio(Runner.run)(agent, "go")
    async with open_books(agent) as books:
        with pytest.raises(type(alone.value)) as governed:
            await books.run("go")
    assert str(governed.value) == str(alone.value)
    [line] = books.lines
    assert (line.outcome, line.charged) == ("committed", tokens(40_000))


async def test_a_tool_that_raised_says_why_in_a_stream_as_elsewhere():
    async def broken() -> str:
        raise ValueError("out of order")

    reasons = []
    for streamed in (False, True):
        trace = Trace()
        tool = trace.tool(broken, failure_error_function=None)
        agent = trace.agent("Teller", "quick", [call("weather")], tools=[tool])
        async with open_books(agent) as books:
            with pytest.raises(Exception, match="out of order"):
                await (drained(books.run.stream("go")) if streamed else books.run("go"))
        reasons += [line.reason for line in books.lines if line.kind == "tool.invoke"]
    assert "out of order" in reasons[0]
    assert reasons[0] == reasons[1]


class Foreign:
    """A model's stream that is no generator: closed in its own way, which may fail."""

    def __init__(self, inner, log, cut):
        self._inner, self._log, self._cut = inner, log, cut

    def __aiter__(self):
        return self

    async def __anext__(self):
        event = await anext(self._inner)
        if self._cut:
            raise ConnectionResetError("cut off")
        return event


class Closes(Foreign):
    def close(self):
        self._log.append("closed")


class ClosesBadly(Foreign):
    async def aclose(self):
        self._log.append("closed")
        raise RuntimeError("it was closed before")


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("foreign", [Foreign, Closes, ClosesBadly])
async def test_a_models_stream_is_closed_as_without_us(foreign, cut):
    """How that goes hides neither the answer nor an error."""
    said, logs = [], []

    def cast():
        trace, log = Trace(), []
        agent = trace.agent("Teller", "quick", "One.")
        inner = agent.model.stream_response
        agent.model.stream_response = lambda *args, **kwargs: foreign(
            inner(*args, **kwargs), log, cut
        )
        logs.append(log)
        return agent

    async def read(stream):
        try:
            await drained(stream.stream_events())
        except ConnectionResetError as error:
            said.append(str(error))
        else:
            said.append(stream.final_output)

    async def alone():
        await read(Runner.run_streamed(cast(), "go"))

    async with open_host() as host:
        await host.aio(alone)()
    agent = cast()
    async with open_books(agent) as books:
        await read(books.run.stream("go"))
    assert said[0] == said[1]
    assert logs[0] == logs[1]
    [line] = books.lines
    assert line.outcome == ("abandoned" if cut else "committed")


# -- what the provider did in a stream


SEARCH = ResponseFunctionWebSearch(
    id="w", type="web_search_call", status="completed",
    action=ActionSearch(type="search", query="weather"),
)  # fmt: skip


def searching(trace, *, cut=None, listed=True):
    """An agent whose provider searches the web, then tells. `listed`: the end says so, too."""
    agent = telling(trace)
    inner = agent.model.stream_response

    async def searched(*args, **kwargs):
        for stage, item in (
            ("added", SEARCH), ("done", SEARCH), ("done", {"type": "file_search_call"}),
            ("added", {"type": "code_interpreter_call"}),
        ):  # fmt: skip
            yield SimpleNamespace(type=f"response.output_item.{stage}", item=item)
        async for event in inner(*args, **kwargs):
            if event.type == "response.completed" and listed:
                event.response.output.append(SEARCH)
            elif event.type == "response.completed":
                event.response.output.clear()
            yield event
            if cut is not None and event.type == "response.output_text.delta":
                await cut()

    agent.model.stream_response = searched
    return agent


def hosted(books):
    return [(line.name, line.outcome, line.charged) for line in books.lines
            if line.kind == "tool.hosted"]  # fmt: skip


DID = [(name, "recorded", risk_points(2)) for name in ("web_search", "file_search")]


@pytest.mark.parametrize("policy", ["charge", "release"])
@pytest.mark.parametrize("how", ["cancelled", "left", "broken"])
async def test_what_the_provider_did_in_a_stream_that_was_cut_is_recorded(how, policy):
    """As far as it was seen done: whatever becomes of the answer, that ran (law 3)."""
    trace = Trace()

    async def cut():
        if how == "broken":
            raise ConnectionResetError("cut off")
        if how == "cancelled":
            books.run.cancel("enough")
        await asyncio.sleep(1)

    agent = searching(trace, cut=cut)
    async with open_books(agent, on_abandoned=policy) as books:
        if how == "left":
            await pieces(books.run.stream("go"), 1)
        else:
            with pytest.raises((RunCancelled, ConnectionResetError)):
                await drained(books.run.stream("go"))
    assert hosted(books) == DID


@pytest.mark.parametrize("listed", [True, False])
async def test_what_the_provider_did_is_recorded_once_wherever_the_stream_says_so(listed):
    """Some providers leave their response's output empty, and send each item when it is done."""
    trace = Trace()
    async with open_books(searching(trace, listed=listed)) as books:
        await drained(books.run.stream("go"))
    assert hosted(books) == (DID[:1] if listed else DID)


async def test_abandoned_streams_never_cost_more_than_was_reserved():
    trace = Trace()
    async with open_books(telling(trace), llm_estimate=tokens(3)) as books:
        await pieces(books.run.stream("go"), 4)
    [line] = books.lines
    assert (line.charged, line.actual_source) == (tokens(3), "streamed")
