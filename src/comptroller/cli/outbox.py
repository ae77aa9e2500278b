"""What is left to settle, from the command line: the outbox, and what dead processes hold."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
import attrs

from comptroller.cli import exit_codes, output, parsing
from comptroller.cli.tables import NOTHING, Table
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger
from comptroller.ledger.remote.outbox import Entry, browse, default_directory, set_aside, text_of
from comptroller.money import show
from comptroller.runtime.recovery import OnAbandoned, RecoveredReservation, looks_at
from comptroller.runtime.recovery import recover as settled

_SHORT = 12  # characters of a file's digest that name it well


def list_owed(directory: Path | None, as_json: bool, wide: bool) -> None:
    """Every charge that is owed, to any ledger, and what was set aside."""
    root = directory or default_directory()
    found, aside = list(browse(root)), set_aside(root)
    if as_json:
        output.write_json(
            {
                "owed": [_plain(path, entry) for path, entry in found],
                "set_aside": [str(path) for path in aside],
            }
        )
        return
    if found:
        output.write(_table(found), wide=wide)
    else:
        output.write(f"nothing is owed: {root} is empty")
    for path in aside:
        output.write(f"set aside, and not sent any more: {path}")


def show_owed(name: str, directory: Path | None) -> None:
    """One charge, whole.

    Raises:
        ComptrollerError: there is none of this name, or there are several.
    """
    root = directory or default_directory()
    files = [path for path, _ in browse(root)] + set_aside(root)
    named = [path for path in files if _is_named(path, name)]
    if len(named) != 1:
        how_many = "several charges are" if named else "no charge is"
        raise ComptrollerError(f"{how_many} named {name!r}: see comptroller outbox list")
    text = text_of(named[0])
    try:
        output.write_json({"file": str(named[0]), **output.with_dollars(json.loads(text))})
    except (ValueError, TypeError, RecursionError):
        output.write_text(text)


def replay(
    address: str | None,
    key_variable: str | None,
    directory: Path | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Send what is owed to a ledger now; the exit code says whether something is left."""
    settings = parsing.ledger(address, key_variable)
    root = directory or default_directory()

    async def send() -> tuple[str, int]:
        async with settings.open(outbox=root, drain_timeout=0.0) as ledger:
            if not ledger.remote:
                raise ComptrollerError(
                    f"{ledger.name} is an embedded ledger: nothing is owed to it"
                )
            await ledger.outbox.found()  # however many there are: they are counted
            return ledger.name, await ledger.drain(timeout)

    asked, left = anyio.run(send)
    elsewhere = _owed_elsewhere(root, asked)
    aside = len(set_aside(root))
    code = exit_codes.FAILED if left else exit_codes.DONE
    if as_json:
        output.write_json({"left": left, "set_aside": aside, "elsewhere": elsewhere})
        return code
    more = f"; {aside} set aside (comptroller outbox list)" if aside else ""
    output.write(f"{left} left to send to {asked} in {root}{more}")
    for name, count in elsewhere.items():
        output.write(
            f"{count} owed to {name}, not asked now: comptroller outbox replay --ledger {name}"
        )
    return code


def _owed_elsewhere(root: Path, asked: str) -> dict[str, int]:
    """How many charges are owed to other ledgers than the one that was asked."""
    owed = (entry.address for _, entry in browse(root) if entry is not None)
    return dict(sorted(Counter(name for name in owed if name != asked).items()))


def recover(address: str | None, key_variable: str | None, on_abandoned: str, as_json: bool) -> int:
    """Settle what dead processes have left; the exit code says whether all of it was accepted."""
    if on_abandoned not in ("charge", "release"):
        raise ValueError(f"--on-abandoned {on_abandoned!r}: write charge or release")
    settings, how = parsing.ledger(address, key_variable), cast("OnAbandoned", on_abandoned)

    async def work() -> tuple[list[RecoveredReservation], str]:
        async with settings.open() as ledger:
            asked = looks_at(ledger)
            found = await settled(ledger, lambda _: how)
            return found, _nothing(ledger, asked=asked)

    with _quiet("comptroller"):  # each is told here
        found, nothing = anyio.run(work)
    if as_json:
        output.write_json([_recovered(each) for each in found])
    for each in found if not as_json else ():
        why = f": {each.reason}" if each.reason else ""
        output.write(
            f"{each.reservation_id} of {each.tenant} ({each.key}),"
            f" {show(each.reserved)}: {each.outcome}{why}"
        )
    if not found and not as_json:
        output.write(nothing)
    return exit_codes.FAILED if any(each.outcome == "left" for each in found) else exit_codes.DONE


def _nothing(ledger: Ledger, *, asked: bool) -> str:
    """Say that there was nothing to settle, and how that is known."""
    if asked:
        return f"dead processes of this host hold nothing in {ledger.name}"
    return f"no dead process of this host has spent at {ledger.name}, so it was not asked"


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the warnings of a logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _recovered(each: RecoveredReservation) -> dict[str, Any]:
    reserved = output.with_dollars(each.reserved.model_dump(mode="json"))
    return {**attrs.asdict(each, recurse=False), "reserved": reserved}


def _is_named(path: Path, name: str) -> bool:
    if path.name.removeprefix("v2-").startswith(name):
        return True
    try:
        return bool(json.loads(text_of(path))["reservation_id"] == name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _plain(path: Path, entry: Entry | None) -> dict[str, Any]:
    plain: dict[str, Any] = {"file": str(path), "readable": entry is not None}
    if entry is not None:
        actual = entry.actual
        plain |= {
            "key": entry.key,
            "ledger": entry.address,
            "tenant": entry.tenant,
            "as": "event" if entry.commit is None else "commit",
            "actual": actual and output.with_dollars(actual.model_dump(mode="json")),
            "idempotency_key": entry.idempotency_key,
            "recorded_at_ms": entry.recorded_at_ms,
            "not_before_ms": entry.not_before_ms,
        }
    return plain


def _table(found: list[tuple[Path, Entry | None]]) -> Table:
    facts = ("as", "since", "not before")
    table = Table(
        "charge", "ledger", "tenant", "as", "actual", *facts[1:], amounts=("actual",), prose=facts
    )
    for path, entry in found:
        name = path.name.removeprefix("v2-")[:_SHORT]
        if entry is None:
            table.add_row(name, *NOTHING * 2, "cannot be read", *NOTHING * 3)
        else:
            table.add_row(
                name,
                output.plain(entry.address),
                output.plain(entry.tenant or "-"),
                "event" if entry.commit is None else "commit",
                show(entry.actual) if entry.actual else "-",
                _moment(entry.recorded_at_ms),
                _moment(entry.not_before_ms),
            )
    return table


def _moment(ms: int | None) -> str:
    if ms is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (OverflowError, ValueError):  # some program has written down what a server made up
        return "beyond any date"
