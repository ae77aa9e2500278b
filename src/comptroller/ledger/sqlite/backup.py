"""A copy of a ledger file, whole and as it stood at one moment, while others use the file.

A plain copy of the file lacks what stands in the log beside it, or tears it. This one is made by
SQLite, within one read: writers go on, and a server notices nothing. It is written aside, checked,
on the disk, and only then gets its name, so a file of that name is always a whole backup.

A backup is one file: it needs no log beside it (see `database_file`), and holds everything that the
ledger does, digests of keys and secrets of webhooks included. So only its owner may read it.
"""

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import attrs

from comptroller.errors import ComptrollerError
from comptroller.ledger.engine.verify import verified
from comptroller.ledger.models import VerificationReport
from comptroller.ledger.sqlite import database_file, schema
from comptroller.ledger.sqlite.file_guard import opening
from comptroller.ledger.sqlite.snapshot import SqliteSnapshot

_PAGES = 4_096
"""Copied between two looks at whether somebody wants it to end, about (16 MB)."""


@attrs.frozen
class Backup:
    """What was made.

    Attributes:
        path: the copy.
        size: its bytes.
        verified: its balances, recomputed; None where its schema is older than this program, which
            brings it forward when it is opened.
    """

    path: Path
    size: int
    verified: VerificationReport | None


def back_up(ledger: Path, path: Path, *, replace: bool = False) -> Backup:
    """Copy the ledger at `ledger` to `path`. Blocks. What interrupts it leaves nothing behind.

    Args:
        ledger: a file that others may use meanwhile.
        path: the copy.
        replace: whether a copy that is there is replaced, as the last step.

    Raises:
        ComptrollerError: the ledger cannot be read, or the copy not be made; the text says why.
    """
    with opening():
        database_file.must_be_usable(ledger)
    _must_be_free(ledger, path, replace=replace)
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise _unwritable(path, error) from None
    os.close(number)
    aside = Path(name)
    try:
        _copy(ledger, aside)
        found = _checked(ledger, aside)
        size = _on_disk(aside)
        _named(aside, path, replace=replace)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        for part in (aside, aside.with_name(f"{aside.name}-journal")):
            part.unlink(missing_ok=True)
    return Backup(path, size, found)


def _must_be_free(ledger: Path, path: Path, *, replace: bool) -> None:
    """Refuse a place that is no place for a backup of this ledger."""
    whole = ledger.resolve()
    belongs = [whole, *(whole.with_name(whole.name + end) for end in ("-wal", "-shm", "-next"))]
    if path.is_dir():
        raise ComptrollerError(f"{path} is a directory: name a file in it, such as {path / 'b.db'}")
    if not path.parent.is_dir():
        raise ComptrollerError(
            f"{path.parent} is no directory: make it with: mkdir -p, or name another one"
        )
    if path.resolve() in belongs or (path.exists() and path.samefile(ledger)):
        raise ComptrollerError(f"{path} belongs to the ledger {ledger} itself: name another file")
    if path.exists() and not path.is_file():
        raise ComptrollerError(f"{path} is no regular file: name another one")
    if path.exists() and not replace:
        raise _taken(path)


def _copy(ledger: Path, aside: Path) -> None:
    """Copy page by page what one read of the ledger sees."""
    try:
        with (
            closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(aside, isolation_level=None)) as target,
        ):
            source.isolation_level = None
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # now the read begins
            source.backup(target, pages=_PAGES)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, with no log beside it
    except sqlite3.Error as error:
        raise ComptrollerError(_failed(ledger, aside, error)) from None


def _checked(ledger: Path, aside: Path) -> VerificationReport | None:
    """Read the copy through, and recompute its balances."""
    try:
        with closing(sqlite3.connect(f"{aside.as_uri()}?mode=ro", uri=True)) as copy:
            (application,) = copy.execute("PRAGMA application_id").fetchone()
            if application != database_file.APPLICATION:
                raise ComptrollerError(f"{ledger} holds no ledger yet: there is nothing to copy")
            (said,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                raise ComptrollerError(
                    database_file.explained(
                        ledger, sqlite3.DatabaseError(f"malformed: {said.splitlines()[-1]}")
                    )
                )
            if schema.version(copy) != schema.newest():
                return None
            return verified(SqliteSnapshot(aside, copy))
    except (sqlite3.Error, TypeError, ValueError) as error:  # rows that no ledger has written
        raise ComptrollerError(database_file.explained(ledger, error)) from None


def _on_disk(path: Path) -> int:
    """Its size, once a loss of power cannot take it any more."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _named(aside: Path, path: Path, *, replace: bool) -> None:
    """Give the copy its name; where nothing is to be replaced, nothing is, whoever came between."""
    if replace:
        aside.replace(path)
    else:
        try:
            path.hardlink_to(aside)
        except FileExistsError:
            raise _taken(path) from None
        except OSError:  # a file system without links
            if path.exists():
                raise _taken(path) from None
            aside.replace(path)
    with suppress(OSError):  # some file systems sync no directory
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _taken(path: Path) -> ComptrollerError:
    return ComptrollerError(f"{path} is there already: name another file, or replace it: --force")


def _unwritable(path: Path, error: OSError) -> ComptrollerError:
    said = error.strerror or str(error)
    return ComptrollerError(f"{path} cannot be written ({said}): name a file elsewhere")


def _failed(ledger: Path, aside: Path, error: sqlite3.Error) -> str:
    """One line: which of the two files it was."""
    said = str(error)
    if "full" in said or "disk I/O" in said:
        return f"{aside.parent} cannot take the copy ({said}): make room, or name a file elsewhere"
    return database_file.explained(ledger, error)
