"""Which executions are of this process, and which of a process of this host that is gone.

An execution's id begins with the mark of its process. While a process lives it holds a lock on the
file of its mark; the kernel frees that lock however the process ends. So a mark that has a file
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
from pathlib import Path
from typing import IO

import platformdirs

log = logging.getLogger("comptroller")

_OLD = 2 * 86_400.0
"""Seconds after which nothing of a dead process can be active (a lease is a day at most)."""

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
    """This process, as others see it. For any thread; made anew in a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._mark = ""
        self._file: IO[str] | None = None
        self._used: set[tuple[str, str]] = set()

    def execution(self, ledger: str, tenant: str) -> str:
        """A new execution's id. The first of a tenant at a ledger is noted in the file."""
        with self._lock:
            if self._process != os.getpid():
                self._begin()
            if (ledger, tenant) not in self._used:
                self._used.add((ledger, tenant))
                self._note({"ledger": ledger, "tenant": tenant})
            return f"{self._mark}-{secrets.token_hex(4)}"

    def _begin(self) -> None:
        self._process, self._mark = os.getpid(), secrets.token_hex(6)
        self._file, self._used = None, set()
        try:
            self._file = _held(self._mark)
            _sweep()
        except OSError as error:
            log.warning("what this process leaves behind if it dies is not recovered: %s", error)

    def _note(self, what: dict[str, str]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(what) + "\n")
                self._file.flush()
            except OSError as error:
                log.warning("%s: %s", self._file.name, error)


PRESENCE = Presence()


def dead() -> dict[str, set[tuple[str, str]]]:
    """The marks of dead processes of this host, and which (ledger, tenant) each has used."""
    found = {}
    for path in _files():
        if _is_free(path):
            found[path.name] = set(_noted(path))
    return found


def _files() -> list[Path]:
    try:
        return sorted(path for path in directory().iterdir() if _MARK.fullmatch(path.name))
    except OSError:  # no process has left one
        return []


def _held(mark: str) -> IO[str]:
    """The file of a mark, locked before it can be seen."""
    directory().mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory() / mark
    part = path.with_suffix(".tmp")
    part.touch(mode=0o600)
    file = part.open("a", encoding="utf-8")
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
    """Forget dead processes of which nothing can be active any more."""
    for path in _files():
        if path.stat().st_mtime < time.time() - _OLD and _is_free(path):
            path.unlink(missing_ok=True)
