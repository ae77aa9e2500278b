"""Models that follow a script, and count what they read and write: the truth of the demonstration.

A token is four characters here, of everything read and written. That count is the usage which a
model reports, and is entered in the tally when the work is done: the ledger sees neither the tally
nor the characters.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

import attrs
from agents import Usage
from agents.items import TResponseOutputItem, TResponseStreamEvent
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message
from runcycles import Amount

from comptroller.core.pricing import TokenCount
from comptroller.testing.models import completed, text_delta

_THINKS = 0.2  # seconds until an answer
_SPEAKS = 0.01  # seconds between two tokens of a streamed one
_CHARACTERS = 4  # in a token

Turn = str | Sequence[TResponseOutputItem]
"""One answer: a text, or calls of tools."""


@attrs.frozen
class Work:
    """What a model or a tool says of one call: a model's tokens, or a tool's cost."""

    tenant: str
    name: str
    tokens: TokenCount | None = None
    cost: Amount | None = None


@attrs.define
class WorkLog:
    """Every piece of work, entered by who did it."""

    work: list[Work] = attrs.field(factory=list)

    def model(self, tenant: str, name: str, tokens: TokenCount) -> None:
        """Enter a model's call."""
        self.work.append(Work(tenant, name, tokens=tokens))

    def tool(self, tenant: str, name: str, cost: Amount) -> None:
        """Enter a tool's call."""
        self.work.append(Work(tenant, name, cost=cost))


class Scripted(ScriptedModel):
    """`model`, as far as names and prices go; what it says is written in `turns`."""

    def __init__(self, model: str, tenant: str, tally: WorkLog, turns: Sequence[Turn]) -> None:
        self.model, self._tenant, self._tally = model, tenant, tally
        super().__init__([ModelStep.respond(partial(self._answer, turn)) for turn in turns])

    async def _answer(self, turn: Turn, call: ModelCall) -> ModelStep:
        if call.streamed and isinstance(turn, str):
            return ModelStep.stream(partial(self._speak, turn))
        await asyncio.sleep(_THINKS)
        output = _items(turn)
        used = TokenCount(input=_read(call), output=sum(map(_written, output)))
        self._tally.model(self._tenant, self.model, used)
        return ModelStep(output=output, usage=_usage(used))

    async def _speak(self, text: str, call: ModelCall) -> AsyncIterator[TResponseStreamEvent]:
        """Token by token. What was said until it was cut off has been said, and counts."""
        said = 0
        try:
            for number, piece in enumerate(_pieces(text), 1):
                await asyncio.sleep(_SPEAKS)
                said = number
                yield text_delta(piece, number)
            used = TokenCount(input=_read(call), output=said)
            yield completed("scripted", _items(text), _usage(used))
        finally:
            used = TokenCount(input=_read(call), output=said)
            self._tally.model(self._tenant, self.model, used)


def _items(turn: Turn) -> list[TResponseOutputItem]:
    return [assistant_message(turn)] if isinstance(turn, str) else list(turn)


def _read(call: ModelCall) -> int:
    items = [call.input] if isinstance(call.input, str) else call.input
    return _tokens(len(call.system_instructions or "") + sum(len(str(item)) for item in items))


def _written(item: TResponseOutputItem) -> int:
    if item.type == "function_call":
        return _tokens(len(item.name) + len(item.arguments))
    return _tokens(sum(len(part.text) for part in getattr(item, "content", ())))


def _tokens(characters: int) -> int:
    return -(-characters // _CHARACTERS)


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _CHARACTERS] for at in range(0, len(text), _CHARACTERS))


def _usage(used: TokenCount) -> Usage:
    return Usage(
        requests=1, input_tokens=used.input, output_tokens=used.output, total_tokens=used.total
    )
