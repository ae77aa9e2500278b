"""What a server logs, and how: each line with its time and level, for people or for machines.

The server's own log is on stderr, where systemd and containers collect it; the access log, a line
of JSON for each request, goes to a file or there too. A file that was moved away, as logrotate
does, is begun anew at the next line: no signal is needed.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

from pydantic_core import to_json

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
ACCESS = logging.getLogger("comptroller.access")


@contextmanager
def logging_as(form: str, level: str, access: str | None) -> Iterator[None]:
    """Log for the length of the block.

    Args:
        form: of the server's own log: one of `FORMATS`.
        level: from which on it tells; other libraries tell from their warnings on.
        access: the file of the access log, `-` for stderr, None for none.

    Raises:
        ValueError: there is no such format or level, or no directory for the file.
    """
    if form not in FORMATS:
        raise ValueError(f"--log-format {form}: write {' or '.join(FORMATS)}")
    if level.lower() not in LEVELS:
        raise ValueError(f"--log-level {level}: write {', '.join(LEVELS)}")
    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(Json() if form == "json" else Text())
    with (
        _handled(logging.getLogger(), own, None),
        _handled(logging.getLogger("comptroller"), None, level.upper()),
        _handled(ACCESS, _access(access), "CRITICAL" if access is None else "INFO"),
    ):
        ACCESS.propagate = False
        try:
            yield
        finally:
            ACCESS.propagate = True


@contextmanager
def _handled(
    logger: logging.Logger, handler: logging.Handler | None, level: str | None
) -> Iterator[None]:
    before = logger.level
    if handler is not None:
        logger.addHandler(handler)
    if level is not None:
        logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        if handler is not None:
            logger.removeHandler(handler)
            handler.close()


def _access(path: str | None) -> logging.Handler | None:
    if path is None:
        return None
    if path == "-":
        return logging.StreamHandler(sys.stderr)
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--access-log {path}: its directory is not there")
    return WatchedFileHandler(path, encoding="utf-8")


class Text(logging.Formatter):
    """`2026-01-31T12:00:00.123Z warning: ...`: one line, with a traceback below it if there is one.

    What others have written into a message begins no line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """As a person reads it."""
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname.lower()}: {message}"
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """As a machine reads it."""
        said = {
            "at": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return to_json(said).decode()


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"
