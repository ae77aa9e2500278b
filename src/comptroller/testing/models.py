"""Models that count what they are asked, and can block, fail, or stream slowly.

They answer as `agents.Model` does, plain and streamed, without a network. Every one counts its
`dispatches` (attempts that reached it), those `in_flight`, and the tokens it said were `consumed`:
the truth that a ledger is compared with. They may be asked from several loops and threads.
For whole conversations with tools there is `agents.testing.ScriptedModel`.

The two stream events that matter to a run, as the Responses API would send them.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agents import Model, ModelResponse, Usage
from agents.items import TResponseOutputItem, TResponseStreamEvent
from agents.testing import assistant_message
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from comptroller.testing.cross_loop import CrossLoopCounter, CrossLoopEvent


def text_delta(text: str, number: int) -> TResponseStreamEvent:
    """Return a piece of the answer's text; `number` counts the stream's events from 1."""
    return ResponseTextDeltaEvent(
        type="response.output_text.delta",
        item_id="message",
        output_index=0,
        content_index=0,
        delta=text,
        logprobs=[],
        sequence_number=number,
    )


def completed(
    response_id: str, output: list[TResponseOutputItem], usage: Usage | None
) -> TResponseStreamEvent:
    """Return the terminal event: the whole answer, and its usage if the provider reports any."""
    response = Response(
        id=response_id,
        created_at=0,
        model="comptroller.testing",
        object="response",
        output=output,
        parallel_tool_calls=False,
        tool_choice="none",
        tools=[],
        usage=_usage(usage) if usage else None,
    )
    return ResponseCompletedEvent(
        type="response.completed", response=response, sequence_number=1_000_000
    )


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
    )


Turn = str | Sequence[TResponseOutputItem]
"""What one answer holds: a text, or output items such as `agents.testing.function_call(...)`."""


class CountingModel(Model):
    """Answers at once, and counts.

    Args:
        answers: one turn each; the last one is repeated.
        tokens: tokens in and out that each answer reports; None: it reports no usage.

    Attributes:
        dispatches: how many requests arrived.
        in_flight: how many of them are neither answered nor ended otherwise.
        consumed: tokens in and out that all answers reported.
        unanswered: how many were cancelled, closed or failed.
    """

    def __init__(self, *answers: Turn, tokens: tuple[int, int] | None = (10, 5)) -> None:
        self.dispatches = self.in_flight = self.consumed = self.unanswered = 0
        self._answers = answers or ("done",)
        self._tokens = tokens
        self._arrived = CrossLoopCounter()
        self._counting = threading.Lock()

    async def started(self, count: int = 1) -> None:
        """Wait until `count` requests have arrived, on the caller's own loop."""
        await self._arrived.reached(count)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """See `agents.Model.get_response`."""
        del args, kwargs
        with self._dispatched() as turn:
            await self._before(turn)
            async for _ in self._deltas(turn):
                pass
            usage = self._reported()
            return ModelResponse(self._output(turn), usage, response_id=f"response-{turn}")

    async def stream_response(
        self, *args: Any, **kwargs: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        """See `agents.Model.stream_response`: deltas of text, then the terminal event."""
        del args, kwargs
        with self._dispatched() as turn:
            await self._before(turn)
            async for number, delta in self._deltas(turn):
                yield text_delta(delta, number)
            usage = self._reported() if self._tokens else None
            yield completed(f"response-{turn}", self._output(turn), usage)

    async def _before(self, turn: int) -> None:
        """Do what happens between the arrival of the request with this number and its answer."""

    async def _deltas(self, turn: int) -> AsyncIterator[tuple[int, str]]:
        answer = self._answer(turn)
        if isinstance(answer, str):
            yield 1, answer

    def _answer(self, turn: int) -> Turn:
        return self._answers[min(turn, len(self._answers)) - 1]

    def _output(self, turn: int) -> list[TResponseOutputItem]:
        answer = self._answer(turn)
        return [assistant_message(answer)] if isinstance(answer, str) else list(answer)

    def _reported(self) -> Usage:
        """Usage, counted as consumed; zeros where none is reported, as the SDK has it there."""
        if self._tokens is None:
            return Usage()
        given, made = self._tokens
        with self._counting:
            self.consumed += given + made
        return Usage(requests=1, input_tokens=given, output_tokens=made, total_tokens=given + made)

    @contextmanager
    def _dispatched(self) -> Iterator[int]:
        """Count one request in, and how it ended. Gives its number, from 1."""
        with self._counting:
            self.dispatches += 1
            self.in_flight += 1
            turn = self.dispatches
        self._arrived.add()
        answered = False
        try:
            yield turn
            answered = True
        finally:
            with self._counting:
                self.in_flight -= 1
                self.unanswered += not answered


class BlockedModel(CountingModel):
    """Blocks until it is released or its caller gives up.

    `await model.started()` waits for the first request, `model.release()` answers all, present
    and to come.
    """

    def __init__(self, *answers: Turn, tokens: tuple[int, int] | None = (10, 5)) -> None:
        super().__init__(*answers, tokens=tokens)
        self._released = CrossLoopEvent()

    def release(self) -> None:
        """Answer. May be called from any task, loop or thread."""
        self._released.open()

    async def _before(self, turn: int) -> None:
        del turn
        await self._released.wait_on_asyncio()


class FailingModel(CountingModel):
    """Raises `error` for the first requests, then answers.

    Args:
        error: an exception, or what makes one (a class, a function).
        times: how many requests fail.
        answers: see `CountingModel`, from the first one that does not fail.
        tokens: see `CountingModel`.
    """

    def __init__(
        self,
        error: BaseException | Callable[[], BaseException],
        *answers: Turn,
        times: int = 1,
        tokens: tuple[int, int] | None = (10, 5),
    ) -> None:
        super().__init__(*answers, tokens=tokens)
        self._error = error
        self._times = times

    async def _before(self, turn: int) -> None:
        if turn <= self._times:
            raise self._error if isinstance(self._error, BaseException) else self._error()

    def _answer(self, turn: int) -> Turn:
        return super()._answer(turn - self._times)


class StreamingModel(CountingModel):
    """Sends `deltas` of text one by one.

    Args:
        deltas: the pieces; their sum is the answer.
        pause: seconds before each piece.
        cut_after: pieces after which the connection breaks; None: it does not.
        cut: what the break raises; None: a ConnectionResetError.
        tokens: see `CountingModel`. A stream that was cut reports none.

    Attributes:
        streamed: the text of all pieces that were sent.
    """

    def __init__(
        self,
        *deltas: str,
        pause: float = 0.0,
        cut_after: int | None = None,
        cut: Exception | None = None,
        tokens: tuple[int, int] | None = (10, 5),
    ) -> None:
        super().__init__("".join(deltas), tokens=tokens)
        self.streamed = ""
        self._pieces = deltas
        self._pause = pause
        self._cut_after = cut_after
        self._cut = cut

    async def _deltas(self, turn: int) -> AsyncIterator[tuple[int, str]]:
        del turn
        for number, piece in enumerate(self._pieces[: self._cut_after], 1):
            await asyncio.sleep(self._pause)
            self.streamed += piece
            yield number, piece
        if self._cut_after is not None:
            raise self._cut or ConnectionResetError(f"cut off after {self._cut_after} pieces")
