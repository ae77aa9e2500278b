"""What `CyclesRunHooks.run_streamed` gives: the SDK's result, settled when its events end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from agents import RunResultStreaming

from comptroller.openai_agents.carriage import Carriage, end_all


class CyclesRunResultStreaming:
    """`agents.RunResultStreaming`, whose events end when everything of the run is settled."""

    def __init__(self, result: RunResultStreaming, carriage: Carriage | None) -> None:
        self._result = result
        self._carried = [] if carriage is None else [carriage]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._result, name)

    def cancel(self, mode: Literal["immediate", "after_turn"] = "immediate") -> None:
        """Cancel the SDK's stream; what it leaves open is settled as given up."""
        self._result.cancel(mode=mode)

    async def stream_events(self) -> AsyncIterator[Any]:
        """The SDK's events. Left before their end, the run is cancelled."""
        events: Any = self._result.stream_events()
        async with aclosing(events):
            try:
                async for event in events:
                    yield event
            except (asyncio.CancelledError, GeneratorExit) as left:
                self._result.cancel()  # the SDK's own generator would wait for the run's end
                await end_all(self._carried, "its stream was left", left)
                raise

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.stream_events()
