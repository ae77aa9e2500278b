"""The files of an opened ledger, which have to be those that others find under their names.

SQLite goes on with the files that it has open, wherever their names lead meanwhile: two processes
with a log each would answer on, and what one of them answered would be gone afterwards. So they are
looked at before each transaction. And a connection tidies up when it is closed: it moves its log
into the ledger, and removes whatever has the log's name by then. Ours do so only where the files
are still theirs, and never in a fork, which closes its copies whenever it ends.
"""

import os
import sqlite3
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn
from weakref import WeakSet

from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite.file_lock import beside

_FRAME_BYTES = 24
"""Before each page of the log."""
_AGAIN = "open the ledger again"


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a connection that makes no file, and only closes when it is closed.

    `timeout`: seconds for another's lock.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    _set_tidies_up(connection, False)
    return connection


_lock = threading.RLock()


def _in_a_fork() -> None:
    global _lock  # noqa: PLW0603 - a thread that is not in the fork may hold the other
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_in_a_fork)


def opening() -> threading.RLock:
    """Return the lock under which this process opens ledgers, and looks whether it has one open.

    To read a file otherwise than by SQLite is safe only where it has not: closing the descriptor
    drops the locks that SQLite has on the file in this process (SQLite, "How To Corrupt", 2.2).
    """
    return _lock


class OpenedFiles:
    """The ledger at `path`, its log and the log's index, as they are now."""

    def __init__(self, path: Path) -> None:
        paths = (path, beside(path, "-wal"), beside(path, "-shm"))
        self._path = path
        self._known = [(str(one), _identity(one)) for one in paths]
        self._sizes = (0, 0)
        with opening():
            _opened.add(self)

    def must_still_be(self) -> None:
        """Refuse to write where nobody would find it again.

        Raises:
            ComptrollerError: a name leads to another file than when this was made, or to none.
        """
        self._look()

    def must_be_whole(self, sql: sqlite3.Connection) -> None:
        """As `must_still_be`, over the ledger's own connection, in its turn.

        Where the log's name leads nowhere, the log itself is moved into the ledger first: nobody
        can have made another one, since whoever opens the ledger does it in a turn.

        Raises:
            ComptrollerError: or one of the files was cut short.
        """
        try:
            sizes = self._look()
        except ComptrollerError:
            if not self._others():
                with suppress(sqlite3.Error):
                    sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise
        if sizes[0] < self._sizes[0] or sizes[1] < self._sizes[1]:
            self._must_be_shorter_for_a_reason(sql, sizes)
        self._sizes = sizes

    @classmethod
    def are_ours(cls, path: Path) -> bool:
        """Whether this process has the ledger at `path` open."""
        found = _identity(path)
        with opening():
            return any(one._known[0][1] == found for one in _opened)

    def close(self, sql: sqlite3.Connection, *, in_turn: bool) -> None:
        """Close the ledger's own connection, which tidies up if the files are still its own.

        In a turn, the last one to close them leaves a ledger that says itself that it is whole.
        """
        try:
            self.must_be_whole(sql)
            _set_tidies_up(sql, True)
            if in_turn:
                sql.execute("PRAGMA journal_mode = DELETE")
        except (ComptrollerError, sqlite3.Error):
            pass  # who asked for something since has been told; or others have the ledger open
        finally:
            sql.close()
            with opening():
                _opened.discard(self)

    def _look(self) -> tuple[int, int]:
        """Return the sizes of the ledger and of its log."""
        sizes = []
        for path, known in self._known:
            if known is None:  # there was none, so nothing is in it
                continue
            try:
                found = os.stat(path)  # noqa: PTH116 - a third of the time, before every transaction
            except OSError:
                self._refuse(path, "moved or removed")
            if known != (found.st_dev, found.st_ino):
                self._refuse(path, "replaced by another file")
            sizes.append(found.st_size)
        return sizes[0], sizes[1] if len(sizes) > 1 else 0

    def _refuse(self, path: str, what: str) -> NoReturn:
        ledger = self._known[0][0]
        if path == ledger:
            raise ComptrollerError(f"{ledger} was {what} while it was open: {_AGAIN}")
        lost = "; what was recorded last may be missing in it" if self._others() else ""
        raise ComptrollerError(f"{path} was {what} while {ledger} was open{lost}: {_AGAIN}")

    def _others(self) -> bool:
        """Whether a name leads to a file that is not ours: somebody may be using it."""
        return any(_identity(Path(path)) not in (known, None) for path, known in self._known)

    def _must_be_shorter_for_a_reason(
        self, sql: sqlite3.Connection, sizes: tuple[int, int]
    ) -> None:
        """SQLite shortens both files, when somebody has it do so; then everything is in them."""
        ledger, log = self._known[0][0], self._known[1][0]
        try:
            _, frames, moved = sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            (page_bytes,) = sql.execute("PRAGMA page_size").fetchone()
            missing = (
                log if frames > moved and frames * (page_bytes + _FRAME_BYTES) > sizes[1] else ""
            )
            if not missing and sizes[0] < self._sizes[0]:
                missing = "" if sizes[0] and _is_whole(self._path) else ledger
        except sqlite3.Error:
            missing = ledger
        if missing:
            raise ComptrollerError(
                f"{missing} was cut short while {ledger} was open: stop what uses it, and put a"
                " backup in its place"
            )


_opened: WeakSet[OpenedFiles] = WeakSet()


def _is_whole(path: Path) -> bool:
    """Check the file over a connection of its own: those of a ledger keep pages in memory."""
    with closing(connect(path, 0)) as looking:
        return bool(looking.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has the name, if any has."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _set_tidies_up(connection: sqlite3.Connection, does: bool) -> None:
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, not does)
