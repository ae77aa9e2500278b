"""Reports: what was charged, estimated, reserved, abandoned, denied, by whom, for what, when.

A store adds up what agrees in everything that a report may tell apart (`UsageRow`), whenever that
is done best; what it all comes to is decided here. A call belongs to the day of its reservation,
also where it was settled after midnight. Times are taken to the quarter of an hour, in which every
zone's days begin.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from operator import add, attrgetter
from typing import Any
from zoneinfo import ZoneInfo

import attrs
from pydantic_core import from_json
from runcycles import ReservationStatus, Unit

from comptroller._frozen import frozen_record
from comptroller.core.identifiers import normalize_filter
from comptroller.core.scopes import LEVELS
from comptroller.core.settlement import ESTIMATED_SOURCES
from comptroller.ledger.engine.denial_counter import QUARTER_MS, DenialKey
from comptroller.ledger.engine.records import Event, Reservation
from comptroller.ledger.models import Usage

DIMENSIONS = (*LEVELS[:-1], "tool", "model", "day", "run")
"""What a report may be told apart by, besides the labels of runs."""
LABEL = "dimension:"
"""Before the name of a label (`dimensions` of a run) that a report is told apart by."""

_LLM = "llm."


@attrs.frozen
class UsageQuery:
    """What a report is about: what was made from `since_ms` on and before `until_ms`."""

    by: tuple[str, ...]
    since_ms: int = 0
    until_ms: int = 2**62
    tenant: str | None = None
    zone: str = "UTC"

    def wants(self, dimension: str) -> bool:
        """Whether it tells `dimension` apart."""
        return dimension in self.by

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it tells apart."""
        return tuple(name.removeprefix(LABEL) for name in self.by if name.startswith(LABEL))

    @property
    def one_by_one(self) -> bool:
        """Whether it tells apart what is not kept added up: it reads the calls themselves."""
        return self.wants("run") or bool(self.labels)

    def concerns(self, path: str, at_ms: int) -> bool:
        """Whether what was made there and then is in it."""
        ours = self.tenant is None or f"{path}/".startswith(f"tenant:{self.tenant}/")
        return ours and self.since_ms <= at_ms < self.until_ms


@frozen_record
class UsageRow:
    """What calls came to that agree in their first six members; those not asked for are empty."""

    path: str
    unit: Unit
    kind: str
    name: str
    run: str
    quarter_ms: int
    calls: int = 0
    charged: int = 0
    estimated: int = 0
    reserved: int = 0
    abandoned: int = 0
    denied: int = 0
    refused: int = 0
    tokens_input: int = 0
    tokens_output: int = 0
    labels: tuple[str, ...] = ()
    """The values of `Asked.labels`; denials have none."""


EVERYTHING = UsageQuery(by=("tool", "model", "day"))
"""All that is told apart of calls whose run is not asked for."""

COUNTED = tuple(field.name for field in attrs.fields(Usage))[2:]
_NOTHING = [0] * len(COUNTED)
_counts = attrgetter(*COUNTED)


def asked(
    by: str | Iterable[str],
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    zone: str,
) -> UsageQuery:
    """Return a report that makes sense.

    Raises:
        ValueError: a dimension that is none, or a time without its zone.
    """
    span: dict[str, int] = {}
    if since is not None:
        span["since_ms"] = milliseconds("since", since) // QUARTER_MS * QUARTER_MS
    if until is not None:
        span["until_ms"] = -(-milliseconds("until", until) // QUARTER_MS) * QUARTER_MS
    return UsageQuery(dimensions(by), tenant=normalize_filter("tenant", tenant), zone=zone, **span)


def dimensions(by: str | Iterable[str]) -> tuple[str, ...]:
    """Return what a report is by, each once: names, or one string of them with commas.

    Raises:
        ValueError: one that is none.
    """
    names = tuple(name.strip() for name in by.split(",")) if isinstance(by, str) else tuple(by)
    for name in names:
        if name not in DIMENSIONS and name.removeprefix(LABEL) in ("", name):
            raise ValueError(
                f"by={name!r}: a report is by any of {', '.join(DIMENSIONS)}, or a label of runs,"
                f" such as {LABEL}user"
            )
    return tuple(dict.fromkeys(names))


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


def report(spending: Iterable[UsageRow], asked: UsageQuery) -> list[Usage]:
    """Return the lines of a report, in the order of what they are about."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for one in spending:
        key = (*_about(one, asked), one.unit.value)
        sums[key] = [*map(add, sums.get(key, _NOTHING), _counts(one))]
    return [
        Usage(dict(zip(asked.by, about, strict=True)), Unit(unit), *counted)
        for (*about, unit), counted in sorted(sums.items())
        if any(counted)
    ]


def _about(one: UsageRow, asked: UsageQuery) -> Iterator[str]:
    """Yield what it is about, in the order asked for."""
    llm = one.kind.startswith(_LLM)
    labels = iter(one.labels)
    for name in asked.by:
        if name == "day":
            yield _day(one.quarter_ms, asked.zone)
        elif name == "run":
            yield one.run
        elif name.startswith(LABEL):
            yield next(labels, "")
        elif name == "model":
            yield one.name if llm else ""
        elif name == "tool":
            yield "" if llm else one.name
        else:
            yield _levels(one.path).get(name, "")


@lru_cache(maxsize=4096)
def _levels(path: str) -> Mapping[str, str]:
    return dict(segment.partition(":")[::2] for segment in path.split("/"))


@lru_cache(maxsize=4096)
def _day(at_ms: int, zone: str) -> str:
    place = UTC if zone == "UTC" else ZoneInfo(zone)
    return datetime.fromtimestamp(at_ms / 1000, place).date().isoformat()


# -- one by one


def of_reservation(reservation: Reservation, asked: UsageQuery) -> UsageRow | None:
    """Return what one reservation comes to; None where nothing came of it."""
    if not reservation.active and reservation.status is not ReservationStatus.COMMITTED:
        return None
    return of_call(
        reservation.path,
        reservation.unit,
        reservation.created_ms,
        reservation.request,
        reservation.settlement,
        reservation.charged or 0,
        reservation.estimate if reservation.active else 0,
        asked,
        reservation.act,
    )


def of_call(
    path: str,
    unit: Unit,
    created_ms: int,
    request: str,
    settlement: str | None,
    charged: int,
    held: int,
    asked: UsageQuery,
    act: tuple[str, str] | None = None,
) -> UsageRow:
    """Return what a reservation comes to that is committed or held, from these of its members."""
    said = from_json(settlement) if settlement else {}
    key = _key(path, unit, created_ms, request, asked, act)
    return UsageRow(*key, 1, *_counts_of(said, charged, held), labels=_labels(request, asked))


def of_event(event: Event, asked: UsageQuery) -> UsageRow:
    """Return what one event comes to."""
    key = _key(event.path, event.unit, event.created_ms, event.request, asked)
    counts = _counts_of(from_json(event.request), event.charged, 0)
    labels = _labels(event.request, asked)
    return UsageRow(*key, 1 if event.charged else 0, *counts, labels=labels)


def of_denials(denied: DenialKey, count: int, requested: int, asked: UsageQuery) -> UsageRow:
    """Return what denials come to that were counted together."""
    acts, by_day = asked.wants("tool") or asked.wants("model"), asked.wants("day")
    return UsageRow(
        denied.path,
        denied.unit,
        denied.kind if acts else "",
        denied.name if acts else "",
        denied.run if asked.wants("run") else "",
        denied.quarter_ms if by_day else 0,
        denied=count,
        refused=requested,
    )


_Key = tuple[str, Unit, str, str, str, int]


def _key(
    path: str,
    unit: Unit,
    at_ms: int,
    request: str,
    asked: UsageQuery,
    act: tuple[str, str] | None = None,
) -> _Key:
    """Return what tells calls apart in `UsageRow`; `request` is JSON, `act` its action."""
    kind = name = run = ""
    acts, by_run = asked.wants("tool") or asked.wants("model"), asked.wants("run")
    if by_run or (acts and act is None):
        said = from_json(request)
        act = said["action"]["kind"], said["action"]["name"]
        if by_run:
            given = (said.get("metadata") or {}).get("run")
            run = given if isinstance(given, str) else ""
    if acts and act is not None:
        kind, name = act
    quarter_ms = at_ms // QUARTER_MS * QUARTER_MS if asked.wants("day") else 0
    return path, unit, kind, name, run, quarter_ms


def _labels(request: str, asked: UsageQuery) -> tuple[str, ...]:
    if not asked.labels:
        return ()
    given = from_json(request)["subject"].get("dimensions") or {}
    return tuple(given.get(name, "") for name in asked.labels)


_Counts = tuple[int, int, int, int, int, int, int, int]


def _counts_of(said: Mapping[str, Any], charged: int, held: int) -> _Counts:
    """Return `UsageRow`'s members from `charged` on; `said` is what a commit or an event said."""
    metrics, metadata = said.get("metrics") or {}, said.get("metadata") or {}
    source = metadata.get("actual_source")
    return (
        charged,
        charged if isinstance(source, str) and source in ESTIMATED_SOURCES else 0,
        held,
        charged if metadata.get("abandoned") is not None else 0,
        0,
        0,
        metrics.get("tokens_input") or 0,
        metrics.get("tokens_output") or 0,
    )
