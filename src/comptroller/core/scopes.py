"""Scopes: the prefixes of a subject that can hold a budget (protocol, SCOPE DERIVATION).

`tenant:acme/agent:triage` is a scope. The order of the levels is fixed, a level that a subject
leaves out leaves nothing behind, and values are compared in lower case.
"""

from functools import lru_cache

from runcycles import Subject

from comptroller.core.identifiers import is_identifier, normalize_identifier

LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")

Values = tuple[str | None, str | None, str | None, str | None, str | None, str | None]


def scopes_of(subject: Subject) -> tuple[str, ...]:
    """Every scope of a subject, outermost first; the last one is the subject's whole path.

    Raises:
        ValueError: no level is given, or a value is none the protocol carries.
    """
    return scopes_from_values(
        (
            subject.tenant,
            subject.workspace,
            subject.app,
            subject.workflow,
            subject.agent,
            subject.toolset,
        )
    )


@lru_cache(maxsize=4096)
def scopes_from_values(values: Values) -> tuple[str, ...]:
    """`scopes_of` for the six values of a subject, outermost first."""
    segments = []
    for level, value in zip(LEVELS, values, strict=True):
        if value is None:
            continue
        if not is_identifier(value):
            raise ValueError(f"subject.{level} must match ^[a-zA-Z0-9_.-]{{1,128}}$: {value!r}")
        segments.append(f"{level}:{value.lower()}")
    if not segments:
        raise ValueError(f"the subject names no level: give at least one of {', '.join(LEVELS)}")
    return tuple("/".join(segments[:depth]) for depth in range(1, len(segments) + 1))


def ancestor_scopes(path: str) -> tuple[str, ...]:
    """Return the scopes that lead to `path`, outermost first, `path` itself last."""
    segments = path.split("/")
    return tuple("/".join(segments[:depth]) for depth in range(1, len(segments) + 1))


def leaf_scope(scope: str) -> str:
    """Return the last segment of a scope: `agent:triage`."""
    return scope.rpartition("/")[2]


def parse_scope(text: str) -> str:
    """Parse a scope that a person wrote: `agent:Triage agent` is `agent:triage-agent`.

    Raises:
        TypeError: not a string.
        ValueError: not a path of levels in their order, beginning with the tenant.
    """
    if not isinstance(text, str):
        raise TypeError(f"scope {text!r}: give a string such as 'tenant:acme/agent:triage'")
    segments, depth = [], -1
    for segment in text.split("/"):
        level, colon, value = segment.partition(":")
        if not colon or level not in LEVELS or not value.strip():
            raise _malformed(text, f"{segment!r} is not LEVEL:NAME")
        if LEVELS.index(level) <= depth:
            raise _malformed(text, f"{level} stands in the wrong place")
        depth = LEVELS.index(level)
        segments.append(f"{level}:{normalize_identifier(value.strip()).lower()}")
    if not segments[0].startswith("tenant:"):
        raise _malformed(text, "it begins with a tenant")
    return "/".join(segments)


def _malformed(text: str, why: str) -> ValueError:
    return ValueError(
        f"scope {text!r}: {why}; write it like 'tenant:acme/agent:triage'"
        f" (levels in this order: {', '.join(LEVELS)})"
    )
