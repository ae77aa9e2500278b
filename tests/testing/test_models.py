"""Models for tests: what they answer, what they count, and how they can be cut off."""

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest
from agents import Agent, ModelBehaviorError, Runner, function_tool
from agents.testing import function_call

from comptroller.testing import (
    BlockedModel,
    CountingModel,
    FailingModel,
    StreamingModel,
    no_task_left,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.virtual_time,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),  # the SDK's own
]


async def test_a_model_answers_and_says_what_it_consumed():
    model = CountingModel("first", "second", tokens=(100, 20))
    agent = Agent("Clerk", model=model)
    outputs = [(await Runner.run(agent, "hello")).final_output for _ in range(3)]
    assert outputs == ["first", "second", "second"]
    assert (model.dispatches, model.consumed, model.in_flight, model.unanswered) == (3, 360, 0, 0)


async def test_an_answer_may_call_tools():
    called = []

    @function_tool
    def look_up(name: str) -> str:
        called.append(name)
        return "found"

    call = function_call("look_up", {"name": "case 42"}, call_id="call-1")
    model = CountingModel([call], "resolved")
    for run in (Runner.run, streamed):
        result = await run(Agent("Clerk", model=model, tools=[look_up]), "hello")
        assert result.final_output == "resolved"
        model = CountingModel([call], "resolved")
    assert called == ["case 42", "case 42"]


async def streamed(agent, text):
    result = Runner.run_streamed(agent, text)
    async for _ in result.stream_events():
        pass
    return result


async def test_the_sdk_sees_the_usage_of_plain_and_streamed_answers():
    for run in (Runner.run, streamed):
        result = await run(Agent("Clerk", model=CountingModel(tokens=(7, 3))), "hello")
        usage = result.context_wrapper.usage
        assert (usage.requests, usage.input_tokens, usage.output_tokens) == (1, 7, 3)


async def test_a_model_may_report_no_usage():
    """As some servers do: the run goes on, nothing is counted as consumed."""
    for run in (Runner.run, streamed):
        model = CountingModel(tokens=None)
        result = await run(Agent("Clerk", model=model), "hello")
        assert result.final_output == "done"
        assert (model.consumed, result.context_wrapper.usage.total_tokens) == (0, 0)


async def test_a_blocked_model_answers_when_it_is_released():
    model = BlockedModel("at last")
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(Runner.run(Agent("Clerk", model=model), "?")) for _ in range(3)]
        await model.started(3)
        assert model.in_flight == 3
        model.release()
    assert [run.result().final_output for run in runs] == ["at last"] * 3
    assert (await Runner.run(Agent("Clerk", model=model), "?")).final_output == "at last"


async def test_a_blocked_model_can_be_left():
    """A cancelled request consumed nothing that it told of, and leaves no task."""
    model = BlockedModel()
    async with no_task_left():
        with pytest.raises(TimeoutError), anyio.fail_after(5):
            await Runner.run(Agent("Clerk", model=model), "?")
    assert (model.dispatches, model.in_flight, model.unanswered) == (1, 0, 1)
    assert model.consumed == 0


async def test_a_model_is_watched_and_released_from_other_threads():
    """The run is in a thread with a loop of its own, the test on its loop."""
    model = BlockedModel("from afar")
    outputs = []

    def elsewhere():
        run = Runner.run(Agent("Clerk", model=model), "?")
        outputs.append(asyncio.run(run).final_output)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await model.started()
    model.release()
    await anyio.to_thread.run_sync(thread.join)
    assert outputs == ["from afar"]


async def test_waiting_for_a_model_can_be_given_up():
    model = BlockedModel()
    with anyio.move_on_after(1) as scope:
        await model.started()
    assert scope.cancelled_caught


@pytest.mark.parametrize("run", [Runner.run, streamed])
async def test_a_failing_model_fails_as_often_as_it_was_told(run):
    model = FailingModel(lambda: ConnectionError("line is dead"), "at last", times=2)
    agent = Agent("Clerk", model=model)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="line is dead"):
            await run(agent, "?")
    assert (await run(agent, "?")).final_output == "at last"
    assert (model.dispatches, model.unanswered, model.consumed) == (3, 2, 15)


async def test_a_failing_model_raises_the_very_exception_it_was_given():
    error = ModelBehaviorError("nonsense")
    with pytest.raises(ModelBehaviorError) as raised:
        await Runner.run(Agent("Clerk", model=FailingModel(error)), "?")
    assert raised.value is error


async def test_a_stream_takes_its_time():
    model = StreamingModel("a", "b", "c", pause=10)
    started = anyio.current_time()
    result = Runner.run_streamed(Agent("Clerk", model=model), "?")
    deltas = [
        (event.data.delta, round(anyio.current_time() - started))
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert deltas == [("a", 10), ("b", 20), ("c", 30)]
    assert (result.final_output, model.streamed, model.consumed) == ("abc", "abc", 15)


@pytest.mark.parametrize(
    ("cut", "raised"), [(None, ConnectionResetError), (OSError("gone"), OSError)]
)
async def test_a_stream_can_break(cut, raised):
    """What was sent is known, the usage is not."""
    model = StreamingModel("a", "b", "c", cut_after=2, cut=cut)
    with pytest.raises(raised, match=r"cut off after 2 pieces|gone"):
        await streamed(Agent("Clerk", model=model), "?")
    assert (model.streamed, model.consumed, model.unanswered, model.in_flight) == ("ab", 0, 1, 0)


async def test_a_stream_can_be_left():
    model = StreamingModel("a", "b", "c", pause=10)
    result = Runner.run_streamed(Agent("Clerk", model=model), "?")
    with anyio.move_on_after(15):
        async for _ in result.stream_events():
            pass
    result.cancel()
    await anyio.sleep(100)
    assert (model.streamed, model.consumed, model.unanswered, model.in_flight) == ("a", 0, 1, 0)
