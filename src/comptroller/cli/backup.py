"""`comptroller backup`: a copy of a ledger file that is in use."""

import shlex
from pathlib import Path

from comptroller._validation import expand_path
from comptroller.cli import output, parsing
from comptroller.cli.exit_codes import DONE, FAILED, complain
from comptroller.ledger.sqlite.backup import Backup
from comptroller.ledger.sqlite.backup import back_up as copied
from comptroller.ledger.sqlite.database_file import shown

_MB = 1_000_000


def back_up(address: str | None, file: Path, force: bool, as_json: bool) -> int:
    """Copy a ledger, and say what became of it. The exit code.

    Raises:
        ValueError: the ledger is none of ours that is in a file.
    """
    ledger, copy = _file(address), expand_path(file, "names no file")
    made = copied(ledger, copy, replace=force)
    differences = len(made.verified.differences) if made.verified else 0
    if as_json:
        checked = made.verified is not None
        output.write_json(
            {
                "ledger": shown(ledger),
                "backup": shown(copy),
                "bytes": made.size,
                "budgets": made.verified.accounts if made.verified else None,
                "differences": differences if checked else None,
            }
        )
    else:
        output.write_text(f"{shown(copy)}: {_told(ledger, made)}")
    if differences:
        complain(
            f"{shown(copy)} is as {shown(ledger)} is, where {differences} of the balances are not"
            " what their history comes to: see comptroller verify --ledger"
            f" {shlex.quote(shown(ledger))}"
        )
    return FAILED if differences else DONE


def _told(ledger: Path, made: Backup) -> str:
    size = f"{made.size / _MB:,.1f} MB" if made.size >= _MB else f"{made.size:,} bytes"
    whole = f"a whole copy of {shown(ledger)}, {size}"
    if made.verified is None:
        return f"{whole}; of an older schema, which is brought forward when it is opened"
    return f"{whole}; its balances were recomputed (budgets: {made.verified.accounts})"


def _file(address: str | None) -> Path:
    """Return the file of the ledger that is meant."""
    url = parsing.ledger(address, None).url
    if "://" in url:
        raise ValueError(
            f"{url} is a server: make the backup on its machine, of the file that it serves,"
            " with: comptroller backup FILE --ledger LEDGER"
        )
    if url == "memory:":
        raise ValueError("memory: is gone with its process: only a ledger in a file is copied")
    return expand_path(url.removeprefix("sqlite:"), "names no ledger")
