"""The directory of an outbox: one file for each charge, below a directory for each tenant.

A file appears whole or not at all, and is readable by its owner alone. What is no entry (a pipe or
a folder of that name, too) is set aside (`.corrupt`), what the ledger will never accept too
(`.rejected`); what the system does not let us read now stays where it is, and is found another
time; what another user has put there is not sent. The others are not concerned.
Everything here blocks for as long as the disk takes.
"""

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import platformdirs
from runcycles.journal import CommitJournal, PendingCommitRecord, auth_fingerprint

from comptroller import _private_files
from comptroller._validation import expand_path
from comptroller.ledger.remote.outbox.entries import Entry

log = logging.getLogger("comptroller.ledger")

_ENTRY, CORRUPT, REJECTED, _PART = ".json", ".corrupt", ".rejected", ".tmp"

_STALE_TMP_AGE = 3_600.0
"""Seconds after which nobody is still writing a file: its process died before it was whole."""

_MOST_BYTES = 1 << 24
"""Of a charge: one is a few thousand."""


def default_directory() -> Path:
    """`COMPTROLLER_OUTBOX`, else `outbox` in the user's data directory."""
    named = os.environ.get("COMPTROLLER_OUTBOX")
    return directory(
        named or platformdirs.user_data_path("comptroller", appauthor=False) / "outbox"
    )


def directory(named: str | os.PathLike[str]) -> Path:
    """Return the one that a person means: `~` is a home, whoever starts the program.

    Raises:
        ValueError: it is nobody's.
    """
    return expand_path(named, "is no directory for an outbox")


@attrs.define
class OutboxDirectory:
    """Where the charges owed to the ledger at `address` lie. For any thread.

    The directory of a tenant bears its name in a form that no key is part of: it is found again
    when the key was changed.
    """

    root: Path
    address: str
    _places: dict[str | None, Path] = attrs.field(factory=dict, init=False, repr=False)
    _found: dict[str, Path] = attrs.field(factory=dict, init=False, repr=False)

    def put(self, entry: Entry) -> None:
        """Write it, or write it anew. Raises OSError: it is not on disk."""
        place, text = self._place(entry), entry.record().to_json().encode()
        path = place / entry.file_name
        try:
            _write(path, text)
        except (FileNotFoundError, NotADirectoryError):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if place.is_symlink() or not place.is_dir():
                _out_of_the_way(place)
            place.mkdir(mode=0o700, exist_ok=True)
            _write(path, text)
        except IsADirectoryError:
            _out_of_the_way(path)
            _write(path, text)

    def remove(self, entry: Entry) -> None:
        """Remove the file of a charge that is settled."""
        place = self._place(entry)
        if self._found.pop(entry.key, None) is None:
            (place / entry.file_name).unlink(missing_ok=True)
        else:  # it may have had the name that earlier releases gave it
            CommitJournal(place).discard(entry.key)

    def set_aside(self, entry: Entry) -> None:
        """Keep the file for a person to look at; it is not sent any more."""
        path = self._place(entry) / entry.file_name
        try:
            path.replace(path.with_suffix(REJECTED))
        except FileNotFoundError:  # the disk was full then, or another process did the same
            self.put(entry)
            path.replace(path.with_suffix(REJECTED))

    def names(self) -> tuple[list[Path], int]:
        """Return the files of all that may be owed to this ledger, and how many are hidden.

        Raises OSError: the outbox itself does.
        """
        found: list[Path] = []
        hidden = 0
        for place in _places(self.root):
            _sweep(place)
            try:
                found += [path for path in _files(place) if path.suffix == _ENTRY]
            except OSError:
                hidden += 1
        return found, hidden

    def entry(self, path: Path) -> Entry | None:
        """Return the entry in one of `names`; None where it holds none that is owed to this ledger.

        Raises:
            OSError: it cannot be read now.
        """
        entry = _read(path, self.address)
        if entry is not None:
            self._found[entry.key] = path.parent
        return entry

    def _place(self, entry: Entry) -> Path:
        if entry.key in self._found:
            return self._found[entry.key]
        tenant = entry.tenant
        if tenant not in self._places:  # it takes 15 ms: such a name is made to be hard to guess
            self._places[tenant] = self.root / auth_fingerprint(self.address, "", tenant)
        return self._places[tenant]


def browse(root: Path) -> Iterator[tuple[Path, Entry | None]]:
    """Every file of every ledger, as it is: nothing is moved. None where it cannot be read."""
    for place in _places(root):
        try:
            names = _files(place)
        except OSError:
            yield place, None
            continue
        for path in names:
            if path.suffix == _ENTRY:
                try:
                    yield path, Entry.read(_record(path))
                except FileNotFoundError:
                    continue  # settled meanwhile
                except (OSError, ValueError):
                    yield path, None


def set_aside(root: Path) -> list[Path]:
    """Return the files that are not sent any more."""
    found = []
    for place in _places(root):
        with suppress(OSError):  # `browse` shows it
            found += [path for path in _files(place) if path.suffix in (CORRUPT, REJECTED)]
    return found


def text_of(path: Path) -> str:
    """Return what a file of an outbox holds. Raises OSError."""
    return _private_files.read(path, _MOST_BYTES).decode("utf-8", errors="replace")


def counted(root: Path | None = None) -> dict[str, int]:
    """How many charges there are in each state, unread: as cheap as looking at the names."""
    states = {_ENTRY: "owed", REJECTED: "rejected", CORRUPT: "corrupt"}
    counts = dict.fromkeys(states.values(), 0)
    for place in _places(root or default_directory()):
        with suppress(OSError), os.scandir(place) as files:  # somebody else's
            for file in files:
                state = states.get(os.path.splitext(file.name)[1])  # noqa: PTH122
                if state is not None:
                    counts[state] += 1
    return counts


def _read(path: Path, address: str) -> Entry | None:
    """Read the entry in a file, which gets today's name; None where none is owed to `address`.

    What another program owes to another ledger may be more than is understood here.
    """
    try:
        record = _record(path)
        if record.base_url != address:
            return None
        entry = Entry.read(record)
        named = path.with_name(entry.file_name)
    except FileNotFoundError:
        return None  # settled meanwhile, by another process
    except _private_files.OfAnother as error:
        log.error("the outbox entry is not sent: %s", error)
        return None
    except (_private_files.Unusable, ValueError) as error:
        _set_aside(path, error)
        return None
    except OSError as error:
        log.error("the outbox entry %s cannot be read now: %s", path, error)
        raise
    if path != named and not named.exists():
        with suppress(OSError):  # it is removed under either name
            path.replace(named)
    return entry


def _record(path: Path) -> PendingCommitRecord:
    """Return what is in a file. Raises OSError; ValueError: it is no entry."""
    try:
        return PendingCommitRecord.from_json(_private_files.read(path, _MOST_BYTES).decode())
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _set_aside(path: Path, error: Exception) -> None:
    _out_of_the_way(path)
    why = str(error).partition("\n")[0]
    log.error("the outbox entry %s cannot be read: it is set aside: %s", path, why)


def _out_of_the_way(path: Path) -> None:
    """Give what is no entry, whatever it is, a name that nothing else has."""
    with suppress(FileNotFoundError):  # another process sets it aside, too
        named = path.with_suffix(CORRUPT)
        if os.path.lexists(named):
            named = path.with_suffix(f".{secrets.token_hex(4)}{CORRUPT}")
        path.rename(named)


def _sweep(place: Path) -> None:
    """Remove what a process was writing when it died: nothing had been sent for it yet."""
    now = time.time()
    for part in place.glob(f"*{_PART}"):
        with suppress(OSError):  # another process sweeps, too
            if abs(now - part.lstat().st_mtime) > _STALE_TMP_AGE:  # or a clock was ahead
                part.unlink()


def _places(root: Path) -> list[Path]:
    """Return the directories of tenants.

    Another user's (`lost+found`, say) is left alone, and told.
    """
    try:
        with os.scandir(root) as found:
            places = [Path(each) for each in found if each.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(root):
            raise
        return []  # there is none yet, or no room for one
    ours = []
    for place in sorted(places):
        with suppress(FileNotFoundError):
            if place.lstat().st_uid == os.geteuid():
                ours.append(place)
            else:
                log.warning("the outbox %s is another user's: it is left alone", place)
    return ours


def _files(place: Path) -> list[Path]:
    """Return what lies in a directory. Raises OSError: that is unknown."""
    try:
        return sorted(place.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("the outbox %s: %s", place, error)
        raise


def _write(path: Path, text: bytes) -> None:
    """Whole or not at all: two processes may write the same entry at once."""
    part = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{_PART}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
