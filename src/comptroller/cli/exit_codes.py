"""How a command ends: its exit code, and one line on stderr that says what is wrong.

This is the one place where an error becomes a line. Whoever raises writes the text, which names
the command that mends it; nothing is added to it here.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

DONE, FAILED, BAD_INPUT, DENIED = 0, 1, 2, 3
SIGNALLED = 128
"""Plus the signal's number: as shells have it."""
_HELP_LEAST = 80  # columns


def told(command: Callable[..., int | None], *args: Any, **settings: Any) -> int:
    """Perform a command: its exit code. An error that a person can mend is told in one line."""
    from comptroller.cli.output import CannotWriteError

    try:
        return command(*args, **settings) or DONE
    except Exception as raised:
        error = _only(raised)
        code = code_of(error)
        if code is None:
            raise
        if isinstance(error, CannotWriteError):
            _say_no_more()
        if not getattr(error, "unread", False):
            complain(usage(error) if isinstance(error, typer.TyperException) else str(error))
        return code


def _only(error: Exception) -> Exception:
    """Return the error, out of the groups that hold nothing else."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _say_no_more() -> None:
    """Keep the interpreter from writing at its exit what stdout does not take."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or not of the system
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def shown_before(undone: str) -> Iterator[None]:
    """Show what is shown only once before it is kept: a secret that nobody has seen opens."""
    from comptroller.cli.output import CannotWriteError

    try:
        yield
    except CannotWriteError as error:
        error.so = undone
        raise


def code_of(error: Exception) -> int | None:
    """Return the exit code of an error; None for one that nobody expects: a defect."""
    if isinstance(error, typer.TyperException):
        return BAD_INPUT
    from comptroller import errors
    from comptroller.cli.output import CannotWriteError

    if isinstance(error, CannotWriteError):
        return FAILED
    if isinstance(error, errors.CallDenied):
        return DENIED
    if isinstance(error, errors.RunCancelled | errors.LedgerUnreachable | errors.LedgerMisbehaved):
        return FAILED
    expected = isinstance(error, errors.ComptrollerError | ValueError | TypeError | OSError)
    return BAD_INPUT if expected else None


def complain(text: str) -> None:
    """One line on stderr."""
    with suppress(OSError):  # nobody can be told
        typer.echo(f"comptroller: {' '.join(text.split())}", err=True)


def usage(error: typer.TyperException) -> str:
    """Describe a mistake in the command itself, with where to read how it is written."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "comptroller"
    option = getattr(error, "option_name", "")
    if option[1:2].isdigit():  # `-5usd` was read as an option
        return f"{option}...: no option begins so, and an amount is at least 0: such as 10usd"
    return f"{error.format_message().rstrip('.')}; see: {path} --help"


def write_anything() -> None:
    """Show as `?` what a terminal's encoding cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def understand_environment() -> None:
    """Forget widths and heights of the environment that are none: rich and typer believe any.

    Help is never narrower than what shows every option whole: typer cuts names, a terminal folds.
    """
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        if not re.fullmatch("[1-9][0-9]{0,5}", os.environ.get(name, "1")):
            del os.environ[name]
    width = int(os.environ.get("TERMINAL_WIDTH", shutil.get_terminal_size().columns))
    if width < _HELP_LEAST:
        os.environ["TERMINAL_WIDTH"] = str(_HELP_LEAST)  # of typer's help alone
