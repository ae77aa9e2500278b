"""The two stream events that matter to a run, as the Responses API would send them."""

from agents import Usage
from agents.items import TResponseOutputItem, TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails


def text_delta(text: str, number: int) -> TResponseStreamEvent:
    """A piece of the answer's text; `number` counts the stream's events from 1."""
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
    """The terminal event: the whole answer, and its usage if the provider reports any."""
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
