"""Opening a ledger file: its schema, its version, and one clear line about a bad file.

A file is looked at before anything is written to it. `application_id` says that it is a ledger.

Its header says whether it is whole by itself: SQLite's own number there is 2 while what was
written last may stand in the log beside it (`-wal`), and 1 once whoever closed it last has taken
that in. So a copy that was made beside a running server, and a log that belongs to another file,
can be told.
"""

import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite import retention, schema
from comptroller.ledger.sqlite.turns import Turns, waited

APPLICATION = 0x434D5054  # "CMPT", registered nowhere; it tells our files from others

_PATIENCE = 5.0  # seconds for another program's lock while a file is opened
_PATIENCE_AT_THE_END = 0.5  # seconds for a turn while it is closed
_A_MOMENT = 0.1  # seconds, longer than opening or closing a file takes
_WRITE_VERSION = 18
"""Where it stands in a file (SQLite's file format, 1.3.3)."""
_WHOLE, _WITH_LOG = b"\x01", b"\x02"

_logger = logging.getLogger("comptroller.ledger")


def must_be_usable(path: Path) -> None:
    """Look at `path` without writing anything there. Blocks.

    Raises:
        ComptrollerError: it is, or can be, no ledger; the text says why and what to do.
    """
    try:
        _must_be_possible(path)
        if not path.exists() or not path.stat().st_size:
            return
        _look_for_its_log(path)
    except OSError as error:
        said = f"{path} cannot be reached ({error.strerror}): name a file that you may write"
        raise ComptrollerError(said) from None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as looking:
            _must_be_ours(path, looking)
    except sqlite3.Error as error:
        raise ComptrollerError(explained(path, error)) from None


def connected(path: Path, synchronous: str, kept: timedelta | None = None) -> sqlite3.Connection:
    """A connection to the ledger at `path`, made new where there is none. Blocks.

    Args:
        path: the file.
        synchronous: SQLite's setting of that name.
        kept: the retention that the file is to name from now on.

    Raises:
        ComptrollerError: as `must_be_usable`, or it cannot be written.
    """
    try:
        connection = sqlite3.connect(
            path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(path, connection, synchronous, kept)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise ComptrollerError(explained(path, error)) from None
    return connection


def _prepare(
    path: Path, connection: sqlite3.Connection, synchronous: str, kept: timedelta | None
) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # `upkeep` does it
    connection.execute("PRAGMA cache_size = -16000")  # KiB: the paths to a million keys
    connection.execute("BEGIN IMMEDIATE")
    _must_be_ours(path, connection)
    if not schema.version(connection):
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    schema.migrate(connection)
    if kept is not None and kept != retention.named(connection):
        retention.name(connection, kept)
    connection.execute("COMMIT")
    connection.execute("PRAGMA busy_timeout = 0")  # who waits, waits for its turn


def close(connection: sqlite3.Connection, turns: Turns) -> None:
    """Close it; whoever is the last one leaves a file that is whole by itself. Blocks."""
    try:
        if turns.take(time.monotonic() + _PATIENCE_AT_THE_END):
            with suppress(sqlite3.Error):  # others have it open
                connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
        turns.pass_on()


def _log_of(path: Path) -> Path:
    """Where SQLite keeps the log of a file."""
    whole = path.resolve()
    return whole.with_name(f"{whole.name}-wal")


def _write_version(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(_WRITE_VERSION)
        return file.read(1)


def _look_for_its_log(path: Path) -> None:
    """Refuse a file beside the log of another one, and tell of one whose own log is gone.

    SQLite would read either as if nothing were wrong. What another process is about while it opens
    or closes the file lasts a moment, so either is believed when it lasts longer.

    Raises:
        ComptrollerError: the log is another file's.
    """
    log = _log_of(path)

    def alone() -> bool:
        return _write_version(path) == _WITH_LOG and not log.exists()

    def beside_another() -> bool:
        return _write_version(path) == _WHOLE and log.exists() and log.stat().st_size > 0

    def lasts(state: Callable[[], bool]) -> bool:
        return state() and not waited(lambda: not state(), time.monotonic() + _A_MOMENT)

    if lasts(alone):
        _logger.warning(
            "%s was not closed, and %s is not beside it: if this is a copy of a ledger in use, it"
            " lacks what stood there (copies are made with: comptroller backup FILE)",
            path,
            log.name,
        )
    elif lasts(beside_another):
        raise ComptrollerError(
            f"{path} was put beside {log.name}, the log of the file that was there before, which"
            f" would be written into it: stop what uses it, and remove that with:"
            f" rm {shlex.quote(str(log))} {shlex.quote(str(log.with_name(f'{path.name}-shm')))}"
        )


def identity(path: Path) -> tuple[int, int]:
    """Which file the path leads to."""
    found = os.stat(path)  # noqa: PTH116 - a third of the time, before every transaction
    return found.st_dev, found.st_ino


def must_still_be(path: Path, opened: tuple[int, int]) -> None:
    """Refuse to write where nobody would find it again.

    Raises:
        ComptrollerError: the path leads to another file than the one that was opened, or to none.
    """
    try:
        if identity(path) == opened:
            return
        said = "replaced by another file"
    except OSError:
        said = "moved or removed"
    raise ComptrollerError(f"{path} was {said} while it was open: open the ledger again")


def explained(path: Path, error: Exception) -> str:
    """One line: what is wrong with the file at `path`, and what to do."""
    shown, said = shlex.quote(str(path)), str(error)
    if isinstance(error, PermissionError) or "readonly" in said or "unable to open" in said:
        if forbidden := _forbidden(path) if path.exists() else None:
            return forbidden
        if not _allowed(path.parent, os.W_OK | os.X_OK):
            parent = shlex.quote(str(path.parent))
            return (
                f"{path.parent} cannot be written, and SQLite keeps its log beside {path.name}:"
                f" allow it with: chmod u+wx {parent}"
            )
    if "not a database" in said or "malformed" in said:
        return (
            f"{path} is damaged or no ledger ({said}); nothing was changed in it."
            f" Save what it holds with: sqlite3 {shown} .recover,"
            f" or begin anew with: mv {shown} {shown}.damaged"
        )
    if "full" in said:
        return f"{path} cannot grow ({said}): make room on the disk; nothing was recorded"
    return f"{path} cannot be used as a ledger: {said}"


def _must_be_possible(path: Path) -> None:
    if path.is_dir():
        raise ComptrollerError(
            f"{path} is a directory: name a file in it, such as {path / 'ledger.db'}"
        )
    if not path.parent.is_dir():
        raise ComptrollerError(
            f"{path.parent} is no directory: create it with: mkdir -p"
            f" {shlex.quote(str(path.parent))}"
        )
    if path.exists() and not path.is_file():
        raise ComptrollerError(f"{path} is no regular file: name another one")
    if path.exists() and (said := _forbidden(path)):  # SQLite would open it to be read
        raise ComptrollerError(said)


def _forbidden(path: Path) -> str | None:
    """What the mode of a file keeps us from, and what to do; None if nothing."""
    for mode, done, letter in ((os.R_OK, "read", "r"), (os.W_OK, "written", "w")):
        if not _allowed(path, mode):
            allow = f"chmod u+{letter} {shlex.quote(str(path))}"
            return f"{path} cannot be {done}: allow it with: {allow}"
    return None


def _allowed(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _must_be_ours(path: Path, connection: sqlite3.Connection) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and application != APPLICATION:
        raise ComptrollerError(
            f"{path} is a database of another program; nothing was changed in it: name another file"
        )
    schema.must_be_known(path, connection)
