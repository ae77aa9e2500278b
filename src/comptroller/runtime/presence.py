"""Which executions are of this process, and which of a process of this host that is gone.

An execution's id begins with a mark of its process. While it has runs, a process holds a lock on
the file of its mark; the kernel frees that lock however the process ends. So a mark that has a file
here, and nobody who holds it, is of a dead process of this host; one without a file is another
host's, and none of our business. The file says which ledgers and tenants the process used.
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

log = logging.getLogger("comptroller")

_OLD = 30 * 86_400.0
"""Seconds since its last run began, after which a dead process is forgotten: nothing of it can be
active then. When it died is not known; a lease is a day at most, and no run is taken to last that
long."""

_EXECUTION = re.compile(r"([0-9a-f]{12})-[0-9a-f]{8}")
_MARK = re.compile(r"[0-9a-f]{12}")


def directory() -> Path:
    """Where the files of this user's processes are."""
    return platformdirs.user_data_path("comptroller", appauthor=False) / "processes"


def mark_of(execution: str) -> str | None:
    """The mark of the process that an execution belongs to; None where it is none of ours."""
    found = _EXECUTION.fullmatch(execution)
    return found[1] if found else None


class Presence:
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
        self._used: set[tuple[str, str]] = set()
        self._owing = False

    def enter(self, ledger: str, tenant: str) -> str:
        """A run begins: its execution's id. Each tenant of a ledger is noted in the file once."""
        with self._lock:
            if self._process != os.getpid() or not self._runs:
                self._begin()
            self._runs += 1
            self._seen()
            if (ledger, tenant) not in self._used:
                self._used.add((ledger, tenant))
                self._note({"ledger": ledger, "tenant": tenant})
            return f"{self._mark}-{secrets.token_hex(4)}"

    def leave(self, *, owing: bool = False) -> None:
        """A run has ended; with the last one, nothing is left that could be recovered.

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
                (directory() / self._mark).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _begin(self) -> None:
        self._process, self._mark, self._runs = os.getpid(), secrets.token_hex(6), 0
        self._file, self._used, self._owing = None, set(), False
        try:
            self._file = _held(self._mark)
            _sweep()
        except OSError as error:
            log.warning("what this process leaves behind if it dies is not recovered: %s", error)

    def _seen(self) -> None:
        """The file is as old as the last run's beginning: what is long dead is known by its age."""
        if self._file is not None:
            with suppress(OSError):  # the disk is what `_note` tells of
                os.utime(self._file)

    def _note(self, what: dict[str, str]) -> None:
        if self._file is not None:
            try:
                os.write(self._file, (json.dumps(what) + "\n").encode())
            except OSError as error:
                log.warning("%s: %s", directory() / self._mark, error)


PRESENCE = Presence()


def dead() -> dict[str, set[tuple[str, str]]]:
    """The marks of dead processes of this host, and which (ledger, tenant) each has used."""
    found = {}
    for path in _files():
        with suppress(FileNotFoundError):  # its process has just ended in peace
            if _is_free(path):
                found[path.name] = set(_noted(path))
    return found


def _files() -> list[Path]:
    try:
        return sorted(path for path in directory().iterdir() if _MARK.fullmatch(path.name))
    except OSError:  # no process has left one
        return []


def _held(mark: str) -> int:
    """The file of a mark, open and locked before it can be seen."""
    directory().mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory() / mark
    part = path.with_suffix(".tmp")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    part.replace(path)
    return file


def _is_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or just removed
        return False
    return True


def _noted(path: Path) -> list[tuple[str, str]]:
    noted = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            what = json.loads(line)
            noted.append((str(what["ledger"]), str(what["tenant"])))
        except (ValueError, KeyError, TypeError):  # torn by the death of its writer
            continue
    return noted


def _sweep() -> None:
    """Forget dead processes of which nothing can be active any more, and what was never whole."""
    for path in [*_files(), *directory().glob("*.tmp")]:
        with suppress(FileNotFoundError):  # another process sweeps, too
            if path.stat().st_mtime < time.time() - _OLD and _is_free(path):
                path.unlink()
