"""Opening a ledger file: its schema, its version, and one clear line about a bad file.

A file is looked at before anything is written to it. `application_id` says that it is a ledger.
It and what SQLite keeps beside it are made for this user alone: SQLite gives its log the mode that
the ledger has.

Its header says whether it is whole by itself: SQLite's own number there is 2 while what was
written last may stand in the log beside it (`-wal`), and 1 once whoever closed it last has taken
that in. So a copy that was made beside a running server, and a log that belongs to another file,
can be told.

A connection to a ledger's file beside the ledger's own, for what is not its protocol.

What is written over it is written in a turn among the processes that share the file.
"""

import errno
import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from comptroller import _private_files
from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite import retention, schema
from comptroller.ledger.sqlite.file_guard import OpenedFiles, connect
from comptroller.ledger.sqlite.file_lock import PRIMARY, FileLock, beside, retry_until

APPLICATION = 0x434D5054  # "CMPT", registered nowhere; it tells our files from others

_BUSY_TIMEOUT = 5.0  # seconds for another program's lock while a file is opened
_A_MOMENT = 0.1  # seconds, longer than opening or closing a file takes
_WRITE_VERSION = 18
"""Where it stands in a file (SQLite's file format, 1.3.3)."""
_WHOLE, _WITH_LOG = b"\x01", b"\x02"

_logger = logging.getLogger("comptroller.ledger")


def must_be_usable(path: Path) -> None:
    """Look at `path` without writing anything there. Blocks; in `opening()`.

    Raises:
        ComptrollerError: it is, or can be, no ledger; the text says why and what to do.
    """
    is_open = OpenedFiles.are_ours(path)
    try:
        _must_be_possible(path)
        if not path.exists() or not path.stat().st_size:
            _must_be_new(path)
            return
        if not is_open:
            _must_have_no_log_of_another(path)
    except _private_files.Unusable as error:
        raise ComptrollerError(str(error)) from None
    except OSError as error:
        said = f"{shown(path)} cannot be reached ({error.strerror}): name a file that you may write"
        raise ComptrollerError(said) from None
    try:
        _must_have_its_log(path)
        if not is_open:
            _tell_of_a_missing_log(path)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as looking:
            _must_be_ours(path, looking)
    except sqlite3.Error as error:
        raise ComptrollerError(explained(path, error)) from None


def connected(path: Path, synchronous: str, kept: timedelta | None = None) -> sqlite3.Connection:
    """Connect to the ledger at `path`, made new where there is none. Blocks; in a turn.

    Args:
        path: the file.
        synchronous: SQLite's setting of that name.
        kept: the retention that the file is to name from now on.

    Raises:
        ComptrollerError: as `must_be_usable`, or it cannot be written.
    """
    try:
        _make_ours(path)
        connection = connect(path, _BUSY_TIMEOUT)
        try:
            _prepare(path, connection, synchronous, kept)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise ComptrollerError(explained(path, error)) from None
    return connection


def shown(path: Path) -> str:
    """Return the path as a person writes it here and now."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # it is elsewhere, or the working directory is gone
        return str(path)


def _make_ours(path: Path) -> None:
    """Nobody else may open the files, those included that an earlier version has made."""
    real = path.resolve()
    with suppress(FileExistsError):  # in our turn: nobody else of this process has it open
        os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _private_files.MODE))
    for one in (real, beside(path, "-wal"), beside(path, "-shm")):
        _private_files.narrow(one)


def _must_have_no_log_of_another(path: Path) -> None:
    """Refuse a file beside the log of another one, which SQLite would write into it."""
    log = beside(path, "-wal")

    def is_another() -> bool:
        return _write_version(path) == _WHOLE and log.exists() and log.stat().st_size > 0

    if _lasts(is_another):
        raise ComptrollerError(
            f"{shown(path)} was put beside {log.name}, the log of the file that was there before,"
            " which would be written into it: stop what uses it, and remove that with:"
            f" rm {shlex.quote(str(log))} {shlex.quote(str(beside(path, '-shm')))}"
        )


def _must_have_its_log(path: Path) -> None:
    """Refuse a ledger whose log was removed while another process has it open.

    That one's log holds what this one would not find. Whoever has the file open holds a lock on it,
    and the log is removed by the last one to close it, before that lock is given up.
    """

    def is_settled() -> bool:
        return _has_its_log(path) or _has_nobody(path)

    if not retry_until(is_settled, time.monotonic() + _BUSY_TIMEOUT):
        raise ComptrollerError(
            f"the log of {shown(path)} ({path.name}-wal, {path.name}-shm) was removed while it was"
            " open: close it there first, where what the log held is saved, and open it again"
        )


def _tell_of_a_missing_log(path: Path) -> None:
    """SQLite would read on as if nothing were missing."""
    log = beside(path, "-wal")
    if _lasts(lambda: _write_version(path) == _WITH_LOG and not log.exists()):
        _logger.warning(
            "%s was not closed, and %s is not beside it: if this is a copy of a ledger in use, it"
            " lacks what stood there (copies are made with: comptroller backup FILE)",
            shown(path),
            log.name,
        )


def _has_its_log(path: Path) -> bool:
    return beside(path, "-wal").exists() and beside(path, "-shm").exists()


def _has_nobody(path: Path) -> bool:
    """Whether no connection to the file is open at this moment."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as alone:
        alone.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            schema.version(alone)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY != sqlite3.SQLITE_BUSY:
                raise
            return False
    return True


def _write_version(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(_WRITE_VERSION)
        return file.read(1)


def _lasts(state: Callable[[], bool]) -> bool:
    """Whether it is more than what another process is about as it opens or closes the file."""
    return state() and not retry_until(lambda: not state(), time.monotonic() + _A_MOMENT)


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


def explained(path: Path, error: Exception) -> str:
    """One line: what is wrong with the file at `path`, and what to do."""
    said, quoted = str(error), shlex.quote(shown(path))
    if isinstance(error, _private_files.Unusable):
        return said
    if isinstance(error, PermissionError) or "readonly" in said or "unable to open" in said:
        if forbidden := _forbidden(path) if path.exists() else None:
            return forbidden
        if not _allowed(path.parent, os.W_OK | os.X_OK):
            parent = shlex.quote(shown(path.parent))
            return (
                f"{shown(path.parent)} cannot be written, and SQLite keeps its log beside"
                f" {path.name}: allow it with: chmod u+wx {parent}"
            )
    if "not a database" in said or "malformed" in said:
        return (
            f"{shown(path)} is damaged or no ledger ({said}); nothing was changed in it."
            f" Save what it holds with: sqlite3 {quoted} .recover,"
            f" or begin anew with: mv {quoted} {quoted}.damaged"
        )
    if "full" in said or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"{shown(path)} cannot grow ({said}): make room on the disk; nothing was recorded"
    return f"{shown(path)} cannot be used as a ledger: {said}"


def _must_be_possible(path: Path) -> None:
    if path.is_dir():
        raise ComptrollerError(
            f"{shown(path)} is a directory: name a file in it, such as {shown(path / 'ledger.db')}"
        )
    if not path.parent.is_dir():
        raise ComptrollerError(
            f"{shown(path.parent)} is no directory: create it with: mkdir -p"
            f" {shlex.quote(shown(path.parent))}"
        )
    if path.exists():
        _private_files.must_be_ours(path, path.stat())
    for one in (beside(path, "-wal"), beside(path, "-shm")):
        with suppress(FileNotFoundError):
            _private_files.must_be_ours(one, one.lstat())
    if path.exists() and (said := _forbidden(path)):  # SQLite would open it to be read
        raise ComptrollerError(said)


def _must_be_new(path: Path) -> None:
    """Refuse an empty file beside a log that is none: SQLite would remove the log."""
    log = beside(path, "-wal")
    if path.exists() and log.exists() and log.stat().st_size:
        raise ComptrollerError(
            f"{shown(path)} is empty, and its log {log} is not: it was cut short. Stop what uses"
            f" it, and put a backup in its place; or begin anew with: mv {shlex.quote(str(log))}"
            f" {shlex.quote(str(log))}.damaged"
        )


def _forbidden(path: Path) -> str | None:
    """Return what the mode of a file keeps us from, and what to do; None if nothing."""
    for mode, done, letter in ((os.R_OK, "read", "r"), (os.W_OK, "written", "w")):
        if not _allowed(path, mode):
            allow = f"chmod u+{letter} {shlex.quote(shown(path))}"
            return f"{shown(path)} cannot be {done}: allow it with: {allow}"
    return None


def _allowed(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _must_be_ours(path: Path, connection: sqlite3.Connection) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and application != APPLICATION:
        raise ComptrollerError(
            f"{shown(path)} is a database of another program; nothing was changed in it:"
            " name another file"
        )
    schema.must_be_known(path, connection)


_SIDE_TIMEOUT = 5.0  # seconds for a turn, and for another program's lock


class SideConnection:
    """Such a connection. One thread uses it at a time.

    Args:
        path: the file of a ledger that has been opened.
        durable: what it has written outlives a loss of power.

    Raises:
        ComptrollerError: the file cannot be used; the text says why and what to do.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._path, self._files = path, OpenedFiles(path)
        with self.explained():
            self.sql = connect(path, _SIDE_TIMEOUT)
            try:
                self.sql.execute("PRAGMA wal_autocheckpoint = 0")  # the ledger does it
                if durable:
                    self.sql.execute("PRAGMA synchronous = FULL")
            except BaseException:  # a file that is no database: nobody else would close it
                self.sql.close()
                raise

    def close(self) -> None:
        """End of use."""
        self.sql.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Blocks until its turn has come."""
        turns = FileLock(self._path)
        try:
            with self.explained():
                if not turns.begin(self.sql, time.monotonic() + _SIDE_TIMEOUT):
                    raise ComptrollerError(f"{self._path}: others have held it: try again")
                yield self.sql
                self.sql.execute("COMMIT")
        finally:
            if self.sql.in_transaction:
                self.sql.execute("ROLLBACK")
            turns.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Faults of the files are told in one line; whatever is asked of them is asked in it."""
        self._files.must_still_be()
        try:
            yield
        except sqlite3.Error as error:
            raise ComptrollerError(explained(self._path, error)) from error
