"""Files of this user alone: made 0600, narrowed where they are wider, refused where not ours.

Whoever can open a file can lock it, and keep its owner waiting for as long as he likes; what a
ledger and an outbox hold is nobody else's business either. So every file that is kept belongs to
the user of this process and is readable by no other. What stands in the place of such a file and is
none (a pipe, a link, a folder, a device) is never opened: a pipe would keep its reader for ever.
"""

import logging
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

MODE = 0o600

log = logging.getLogger("comptroller")

_OTHERS = 0o777 & ~MODE
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFLNK: "a link",
    stat.S_IFSOCK: "a socket",
}


class Unusable(OSError):
    """What stands at a path is no file of this user; the text says what it is, and what to do."""


class OfAnother(Unusable):
    """It is another user's."""


def must_be_ours(path: Path, found: os.stat_result) -> None:
    """Raise `Unusable` unless `found`, which stands at `path`, is a regular file of this user."""
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise Unusable(f"{path} is {kind} and no regular file: move it away, or name another file")
    if found.st_uid != os.geteuid():
        owner, we = _user(found.st_uid), _user(os.geteuid())
        raise OfAnother(
            f"{path} belongs to {owner}, and this process runs as {we}: run it as {owner},"
            " or name another file"
        )


def opened(path: Path, flags: int) -> int:
    """Open the file at `path`, made where `flags` say so; no other user can open it.

    Raises:
        Unusable: it is no regular file, or another user's.
        OSError: it cannot be opened.
    """
    with suppress(FileNotFoundError):
        must_be_ours(path, path.lstat())  # opening a device may do something
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, MODE)
    try:
        found = os.fstat(file)
        must_be_ours(path, found)
        if found.st_mode & _OTHERS:
            _narrowed(path, found)
    except BaseException:
        os.close(file)
        raise
    return file


def narrow(path: Path) -> None:
    """Take everybody else's permissions from the file at `path`, if there is one.

    It is not opened: closing it would drop the locks that SQLite has on it in this process.

    Raises:
        Unusable: it is no regular file, or another user's.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    must_be_ours(path, found)
    if found.st_mode & _OTHERS:
        _narrowed(path, found)


def read(path: Path, most: int) -> bytes:
    """Return what the file at `path` holds.

    Raises:
        Unusable: it is no regular file, another user's, or holds more than `most` bytes.
        OSError: it cannot be read.
    """
    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        held = file.read(most + 1)
    if len(held) > most:
        raise Unusable(f"{path} holds more than {most} bytes")
    return held


def _narrowed(path: Path, found: os.stat_result) -> None:
    try:
        path.chmod(found.st_mode & MODE)
    except OSError as error:  # a file system that knows no modes
        log.warning("others may be able to read %s: %s", path, error)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
