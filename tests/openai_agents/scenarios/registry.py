"""How a scenario says what it is."""

from collections.abc import Callable
from typing import Any

import attrs

from support.governed_vs_plain import Play
from support.recording_models import Trace

Build = Callable[[Trace], Play]


@attrs.frozen
class Scenario:
    """One of them. `streamed`, `nested`, `trio`: whether it can be played like that."""

    build: Build
    streamed: bool = True
    nested: bool = True
    trio: bool = True

    @property
    def name(self) -> str:
        return self.build.__name__


def register(scenarios: list[Scenario]) -> Callable[..., Callable[[Build], Build]]:
    """A decorator that adds a function to `scenarios`."""

    def scenario(**can: Any) -> Callable[[Build], Build]:
        def add(build: Build) -> Build:
            scenarios.append(Scenario(build, **can))
            return build

        return add

    return scenario
