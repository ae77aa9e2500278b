"""What a server logs, and how: each line with its time and level, for people or for machines.

The server's own log is on stderr, where systemd and containers collect it; the access log, a line
of JSON for each request, goes to a file or there too. A file that was moved away, as logrotate
does, is begun anew at the next line: no signal is needed.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TextIO

from pydantic_core import to_json

from comptroller.cli.exit_codes import complain

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
    own = _LogStream(sys.stderr)
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
        return _LogStream(sys.stderr)
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"--access-log {path}: its directory is not there")
    return _LogFile(path, encoding="utf-8")


class _Lossy(logging.Handler):
    """A handler whose lines may be lost, and nothing else.

    `logging` would write a traceback to stderr for each line that a full disk does not take: by
    default to the same disk, at the rate of the requests. It is told once, until a line is written
    again; requests are answered all the while.
    """

    _losing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            super().emit(record)
        except Exception:  # noqa: BLE001 - a log that was moved away cannot be begun anew
            self.handleError(record)

    def flush(self) -> None:
        """Every line ends with it: this one is written."""
        super().flush()
        self._losing = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - as logging's
        """Note that a line was not written."""
        if not self._losing:
            self._losing = True
            with suppress(OSError, ValueError):  # stderr may be on the same disk, or closed
                complain(f"warning: the log loses lines: {sys.exc_info()[1]}")

    def close(self) -> None:
        """Close the file, though a line may be left that could not be written."""
        with suppress(OSError, ValueError):
            super().close()


class _LogFile(_Lossy, WatchedFileHandler):
    """A file; one that was moved away is begun anew."""


class _LogStream(_Lossy, logging.StreamHandler[TextIO]):
    """A stream of this process."""


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
