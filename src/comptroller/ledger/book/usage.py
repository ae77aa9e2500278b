"""Reports: what was charged, reserved, abandoned, denied, by whom, for what, when.

A store adds up what agrees in everything that a report may tell apart (`Spending`), wherever that
is done fastest; what it all comes to is decided here. A call belongs to the day of its reservation,
also where it was settled after midnight.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import attrs
from runcycles import ReservationStatus, Unit

from comptroller.decide.scopes import LEVELS
from comptroller.ledger.book.denials import QUARTER_MS, Denied
from comptroller.ledger.book.records import Event, Reservation

DIMENSIONS = (*LEVELS[:-1], "tool", "model", "day", "run")
"""What a report may be told apart by."""

_LLM = "llm."


@attrs.frozen
class Asked:
    """What a report is about: what was made from `since_ms` on and before `until_ms`."""

    by: tuple[str, ...]
    since_ms: int = 0
    until_ms: int = 2**62
    tenant: str | None = None
    zone: str = "UTC"

    def wants(self, dimension: str) -> bool:
        """Whether it tells `dimension` apart."""
        return dimension in self.by

    def concerns(self, path: str, at_ms: int) -> bool:
        """Whether what was made there and then is in it."""
        ours = self.tenant is None or f"{path}/".startswith(f"tenant:{self.tenant}/")
        return ours and self.since_ms <= at_ms < self.until_ms


@attrs.frozen
class Spending:
    """What calls came to that agree in their first six members; those not asked for are empty."""

    path: str
    unit: Unit
    kind: str
    name: str
    run: str
    quarter_ms: int
    calls: int = 0
    charged: int = 0
    reserved: int = 0
    abandoned: int = 0
    denied: int = 0
    refused: int = 0
    tokens_input: int = 0
    tokens_output: int = 0


@attrs.define
class Usage:
    """One line of a report. Amounts are whole numbers of `unit`.

    Attributes:
        by: what the line is about: `{"tenant": "acme", "agent": "triage"}`; "" where a call names
            none.
        calls: those that were charged or still hold their reservation.
        charged: what they were charged, the abandoned ones included.
        reserved: what is still held by those that are not settled.
        abandoned: the part of `charged` that belongs to calls given up before their end.
        denied: how many requests a budget refused; `refused` is what they asked for.
        refused: see `denied`.
        tokens_input, tokens_output: as the models reported them.
    """

    by: dict[str, str]
    unit: Unit
    calls: int = 0
    charged: int = 0
    reserved: int = 0
    abandoned: int = 0
    denied: int = 0
    refused: int = 0
    tokens_input: int = 0
    tokens_output: int = 0


COUNTED = tuple(field.name for field in attrs.fields(Usage))[2:]


def asked(
    by: str | Iterable[str],
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    zone: str,
) -> Asked:
    """A report that makes sense.

    Raises:
        ValueError: a dimension that is none, or a time without its zone.
    """
    by = tuple(name.strip() for name in by.split(",")) if isinstance(by, str) else tuple(by)
    for name in by:
        if name not in DIMENSIONS:
            raise ValueError(f"by={name!r}: a report is by any of {', '.join(DIMENSIONS)}")
    more: dict[str, int] = {}
    for name, moment in (("since", since), ("until", until)):
        if moment is not None:
            more[f"{name}_ms"] = milliseconds(name, moment)
    return Asked(tuple(dict.fromkeys(by)), tenant=tenant and tenant.lower(), zone=zone, **more)


def milliseconds(name: str, moment: datetime) -> int:
    """`moment` in epoch milliseconds.

    Raises:
        ValueError: it is no datetime with a zone.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(
            f"{name}={moment!r}: give a datetime with its zone, such as datetime.now(UTC)"
        )
    return int(moment.timestamp() * 1000)


def report(spending: Iterable[Spending], asked: Asked) -> list[Usage]:
    """The lines of a report, in the order of what they are about."""
    lines: dict[tuple[Any, ...], Usage] = {}
    for one in spending:
        levels = dict(segment.partition(":")[::2] for segment in one.path.split("/"))
        about = {name: _about(name, one, levels, asked) for name in asked.by}
        line = lines.setdefault((*about.values(), one.unit), Usage(about, one.unit))
        for name in COUNTED:
            setattr(line, name, getattr(line, name) + getattr(one, name))
    shown = [line for line in lines.values() if any(getattr(line, name) for name in COUNTED)]
    return sorted(shown, key=lambda line: (*line.by.values(), line.unit.value))


def _about(name: str, one: Spending, levels: Mapping[str, str], asked: Asked) -> str:
    if name == "day":
        zone = UTC if asked.zone == "UTC" else ZoneInfo(asked.zone)
        return datetime.fromtimestamp(one.quarter_ms / 1000, zone).date().isoformat()
    if name == "run":
        return one.run
    if name == "model":
        return one.name if one.kind.startswith(_LLM) else ""
    if name == "tool":
        return "" if one.kind.startswith(_LLM) else one.name
    return levels.get(name, "")


# -- one by one, for a store that has nothing better


def of_reservation(reservation: Reservation, asked: Asked) -> Spending | None:
    """What one reservation comes to; None where nothing came of it."""
    committed = reservation.status is ReservationStatus.COMMITTED
    if not committed and not reservation.active:
        return None
    request = json.loads(reservation.request)
    said = json.loads(reservation.settlement) if reservation.settlement else {}
    charged = reservation.charged or 0
    return attrs.evolve(
        _of(reservation.path, reservation.unit, reservation.created_ms, request, asked),
        calls=1,
        charged=charged,
        reserved=0 if committed else reservation.estimate,
        **_settled(said, charged),
    )


def of_event(event: Event, asked: Asked) -> Spending:
    """What one event comes to."""
    request = json.loads(event.request)
    return attrs.evolve(
        _of(event.path, event.unit, event.created_ms, request, asked),
        calls=1 if event.charged else 0,
        charged=event.charged,
        **_settled(request, event.charged),
    )


def of_denials(denied: Denied, count: int, requested: int, asked: Asked) -> Spending:
    """What denials come to that were counted together."""
    request = {
        "action": {"kind": denied.kind, "name": denied.name},
        "metadata": {"run": denied.run},
    }
    return attrs.evolve(
        _of(denied.path, denied.unit, denied.quarter_ms, request, asked),
        denied=count,
        refused=requested,
    )


def _of(path: str, unit: Unit, at_ms: int, request: Mapping[str, Any], asked: Asked) -> Spending:
    action, run = request["action"], (request.get("metadata") or {}).get("run")
    acts = asked.wants("tool") or asked.wants("model")
    return Spending(
        path,
        unit,
        action["kind"] if acts else "",
        action["name"] if acts else "",
        run if asked.wants("run") and isinstance(run, str) else "",
        at_ms // QUARTER_MS * QUARTER_MS if asked.wants("day") else 0,
    )


def _settled(said: Mapping[str, Any], charged: int) -> dict[str, Any]:
    metrics, metadata = said.get("metrics") or {}, said.get("metadata") or {}
    return {
        "abandoned": charged if metadata.get("abandoned") is not None else 0,
        "tokens_input": metrics.get("tokens_input") or 0,
        "tokens_output": metrics.get("tokens_output") or 0,
    }
