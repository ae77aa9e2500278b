"""The schema of a ledger file: numbered steps, each performed once and recorded as it is performed.

A step is an SQL script in `migrations/`, such as `0001_initial.sql`. The numbers leave no gap. To
change the schema, add the next one; one that a release has shipped never changes again. Whoever
opens a file performs the steps it lacks, all of them in one transaction with their records: in
`user_version`, which every program checks, and in the table `migrations`, which people read.
"""

import sqlite3
import time
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import attrs

from comptroller.errors import ComptrollerError

_RECORDS = """
CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    performed_ms INTEGER NOT NULL
)
"""


@attrs.frozen
class Migration:
    """One step."""

    number: int
    name: str
    script: str

    def statements(self) -> Iterator[str]:
        """Its statements, one by one: `executescript` would end the transaction."""
        statement = ""
        for line in self.script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement
                statement = ""


@cache
def migrations() -> tuple[Migration, ...]:
    """Every step there is, in order."""
    scripts = resources.files(__package__).joinpath("migrations")
    found = []
    for script in sorted(scripts.iterdir(), key=lambda script: script.name):
        number, _, name = script.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(number), name, script.read_text("utf-8")))
    return tuple(found)


def newest() -> int:
    """Return the schema that this program writes."""
    return migrations()[-1].number


def version(connection: sqlite3.Connection) -> int:
    """Return the schema of the file; 0 where it has none yet."""
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    return int(number)


def must_be_known(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file whose schema is newer than this program.

    Raises:
        ComptrollerError: it is.
    """
    if (found := version(connection)) > newest():
        raise ComptrollerError(
            f"{path} was written by a newer comptroller (schema {found}, this one knows up to"
            f" {newest()}): upgrade with: pip install --upgrade comptroller"
        )


def must_be_current(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file whose schema another process has changed since it was opened.

    Raises:
        ComptrollerError: it has; records of ours may not fit any more.
    """
    if (found := version(connection)) != newest():
        raise ComptrollerError(
            f"{path} was brought to schema {found} by another comptroller while it was open here"
            f" (schema {newest()}): upgrade this one with: pip install --upgrade comptroller"
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Perform the steps that the file lacks, in the transaction that `connection` is in."""
    behind = version(connection)
    lacking = [migration for migration in migrations() if migration.number > behind]
    if not lacking:
        return
    connection.execute(_RECORDS)
    for migration in lacking:
        for statement in migration.statements():
            connection.execute(statement)
        connection.execute(
            "INSERT INTO migrations (number, name, performed_ms) VALUES (?, ?, ?)",
            (migration.number, migration.name, time.time_ns() // 1_000_000),
        )
    connection.execute(f"PRAGMA user_version = {newest()}")
