"""Which executions are of this process, and which of a process of this host that is gone.

An execution's id begins with a mark of its process. While it has runs, a process holds a lock on
the file of its mark; the kernel frees that lock however the process ends. So a mark that has a file
here, and nobody who holds it, is of a dead process of this host; one without a file is another
host's, and none of our business. The file says which ledgers and tenants the process used.

A lock is free once nobody has the file open any more, so a fork closes it at once: it would hide
the death of its parent for as long as it lives.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

from comptroller import _private_files

log = logging.getLogger("comptroller")

_STALE_AFTER = 30 * 86_400.0
"""Seconds since its last run began, after which a dead process is forgotten: nothing of it can be
active then. When it died is not known; a lease is a day at most, and no run is taken to last that
long."""

_DAY = 86_400.0
"""Seconds that a clock may be ahead of another one. A file from later than that was written by a
clock that was wrong: it ages from when that is seen."""

_MOST_BYTES = 1 << 24
"""Of the ledgers and tenants of one process."""

_EXECUTION = re.compile(r"([0-9a-f]{12})-[0-9a-f]{8}")
_MARK = re.compile(r"[0-9a-f]{12}")


def directory() -> Path:
    """Where the files of this user's processes are."""
    return platformdirs.user_data_path("comptroller", appauthor=False).absolute() / "processes"


def mark_of(execution: str) -> str | None:
    """Return the mark of an execution's process; None where it is none of ours."""
    found = _EXECUTION.fullmatch(execution)
    return found[1] if found else None


class ProcessRegistry:
    """This process, as others see it while it has runs. For any thread; made anew in a fork.

    The file is there from the first run's beginning to the last one's end: a process that ends in
    peace leaves none. Where a run could not settle, it stays, as if the process had died: what that
    run has reserved is recovered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._mark = ""
        self._runs = 0
        self._file: int | None = None
        self._path = Path()
        self._used: set[tuple[str, str]] = set()
        self._owing = False
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._forked,
        )

    def enter(self, ledger: str, tenant: str) -> str:
        """Note that a run begins, and return its execution's id.

        Tenants are noted once a ledger.
        """
        with self._lock:
            if not self._runs:
                self._begin()
            elif self._file is None:
                self._hold()  # there may be room on the disk by now
            self._runs += 1
            self._seen()
            if (ledger, tenant) not in self._used and self._note(ledger, tenant):
                self._used.add((ledger, tenant))
            return f"{self._mark}-{secrets.token_hex(4)}"

    def leave(self, *, owing: bool = False) -> None:
        """Note that a run has ended; with the last one, nothing is left that could be recovered.

        `owing`: it has used what its ledger did not take, and nothing else keeps.
        """
        with self._lock:
            if self._process != os.getpid():
                return  # it was its parent's
            self._runs -= 1
            self._owing = self._owing or owing
            if self._runs or self._file is None:
                return
            if not self._owing:
                with suppress(OSError):  # it says what is recovered: nothing, here
                    self._path.unlink()
            os.close(self._file)
            self._file = None

    def _begin(self) -> None:
        self._process, self._mark, self._owing = os.getpid(), secrets.token_hex(6), False
        self._used = set()
        self._hold()

    def _hold(self) -> None:
        self._path = directory() / self._mark
        try:
            self._file = _held(self._path)
            _sweep()
        except OSError as error:
            log.warning("what this process leaves behind if it dies is not recovered: %s", error)

    def _forked(self) -> None:
        """In a fork, which has no runs."""
        self._lock.release()
        if self._file is not None:
            os.close(self._file)
        self._file, self._runs, self._process = None, 0, 0

    def _seen(self) -> None:
        """Touch the file as a run begins: what is long dead is known by its age."""
        if self._file is not None:
            with suppress(OSError):  # the disk is what `_note` tells of
                os.utime(self._file)

    def _note(self, ledger: str, tenant: str) -> bool:
        """Whether it stands in the file, on a line of its own even after one that was torn."""
        if self._file is None:
            return False
        line = f"\n{json.dumps({'ledger': ledger, 'tenant': tenant})}\n".encode()
        try:
            if os.write(self._file, line) == len(line):
                return True
            log.warning("%s: no room on the disk for all of what is to be noted", self._path)
        except OSError as error:
            log.warning("%s: %s", self._path, error)
        return False


this_process = ProcessRegistry()


def dead() -> dict[str, set[tuple[str, str]]]:
    """Return the marks of dead processes of this host, and which (ledger, tenant) each has used."""
    found = {}
    for path in _files():
        with suppress(OSError):  # its process has just ended in peace; or it is no process's file
            if _is_free(path):
                found[path.name] = set(_noted(path))
    return found


def _files() -> list[Path]:
    try:
        return sorted(path for path in directory().iterdir() if _MARK.fullmatch(path.name))
    except OSError:  # no process has left one
        return []


def _held(path: Path) -> int:
    """Open the file of a mark, locked before it can be seen."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    file = _private_files.opened(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        part.replace(path)
    except BaseException:
        os.close(file)
        raise
    return file


def _is_free(path: Path) -> bool:
    """Whether no process holds it. Raises OSError: it is gone, or no process's file."""
    file = _private_files.opened(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _noted(path: Path) -> list[tuple[str, str]]:
    noted = []
    text = _private_files.read(path, _MOST_BYTES).decode("utf-8", errors="replace")
    for line in text.splitlines():
        try:
            what = json.loads(line)
            noted.append((str(what["ledger"]), str(what["tenant"])))
        except (ValueError, KeyError, TypeError):  # torn by the death of its writer
            continue
    return noted


def _sweep() -> None:
    """Forget dead processes of which nothing can be active any more, and what was never whole."""
    now = time.time()
    for path in [*_files(), *directory().glob("*.tmp")]:
        with suppress(OSError):  # another process sweeps, too; or it is no process's file
            written = path.stat().st_mtime
            if written > now + _DAY:
                os.utime(path)
            elif written < now - _STALE_AFTER and _is_free(path):
                path.unlink()
