"""Who spends: what was said, filled from the config where nothing was."""

from typing import Any

from runcycles import CyclesConfig, Subject

from comptroller.decide.names import checked

LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")


def subject_of(config: CyclesConfig | None, **given: str | None) -> Subject:
    """The subject of `given` fields; unset ones come from `config`.

    Raises:
        TypeError, ValueError: a value that cannot stand in a subject.
    """
    filled = {level: getattr(config, level, None) for level in LEVELS}
    said = {level: value for level, value in given.items() if value is not None}
    named = {level: value for level, value in {**filled, **said}.items() if value is not None}
    checked_levels: dict[str, Any] = {level: checked(level, text) for level, text in named.items()}
    return Subject(**checked_levels)
