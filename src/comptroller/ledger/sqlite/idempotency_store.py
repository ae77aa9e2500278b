"""What was answered under which idempotency key, in tables.

What was answered when a reservation was made, and when it ended, stands in its own row. The rest
(extensions, decisions, dry runs, events) is in `answers`. `keys` leads from a digest to either.
"""

import sqlite3
from collections.abc import Callable, Mapping

from runcycles import Unit

from comptroller.ledger.engine.records import Endpoint, StoredResponse
from comptroller.ledger.sqlite import rows

GRANT = "digest, fingerprint, leased_ms, caps, balances"
END = "end_digest, end_fingerprint, end_balances"
"""Columns of a reservation's row."""

_ANSWER = "fingerprint, made, token, amount, moment_ms, reason, caps, balances"
_NEW = f"id, reservation, digest, made_ms, {_ANSWER}"
_ADD = f"INSERT INTO answers ({_NEW}) VALUES ({rows.marks(_NEW)})"
_ADD_KEY = "INSERT INTO keys (digest, reservation, answer) VALUES (?, ?, ?)"
_FIND_KEY = "SELECT reservation, answer FROM keys WHERE digest = ?"
_FIND = f"SELECT {_ANSWER} FROM answers WHERE id = ?"
_FIND_EXTENSION = f"SELECT {_ANSWER} FROM answers WHERE reservation = ? AND digest = ?"
_FIND_GRANT = (
    "SELECT fingerprint, id, token, 0, leased_ms, NULL, caps, balances"
    " FROM reservations WHERE id = ?"
)
_FIND_END = (
    "SELECT end_fingerprint, 0, '', coalesce(charged, 0), 0, NULL, NULL, end_balances"
    " FROM reservations WHERE id = ? AND end_digest = ?"
)
_NO_GRANT, _NO_END = (None,) * 5, (None,) * 3

Numbers = Mapping[tuple[str, Unit], int]
"""The rows of accounts."""


class ResponseTable:
    """The answers of a store: those of the present batch, and those before it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        self.forget()

    def forget(self) -> None:
        """Drop what is buffered."""
        self._fresh: dict[tuple[int, bytes], StoredResponse] = {}
        self._grants: dict[int, tuple[bytes, StoredResponse]] = {}
        self._ends: dict[int, tuple[bytes, StoredResponse]] = {}
        self._others: list[tuple[int, bytes, StoredResponse]] = []

    def remember(self, endpoint: Endpoint, digest: bytes, answer: StoredResponse, row: int) -> None:
        """Keep what a key was answered."""
        self._fresh[row, digest] = answer
        if endpoint == "reserve" and answer.row:
            self._grants[answer.row] = digest, answer
        elif endpoint in ("commit", "release"):
            self._ends[row] = digest, answer
        else:
            self._others.append((row, digest, answer))

    def recall(self, endpoint: Endpoint, digest: bytes, row: int) -> StoredResponse | None:
        """Return what a key was answered."""
        fresh = self._fresh.get((row, digest))
        if fresh is not None:
            return fresh
        if endpoint in ("commit", "release"):
            return self._found(_FIND_END, row, digest)
        if row:
            return self._found(_FIND_EXTENSION, row, digest)
        key = self._sql.execute(_FIND_KEY, (digest,)).fetchone()
        if key is None:
            return None
        reservation, answer = key
        return self._found(_FIND_GRANT, reservation) if reservation else self._found(_FIND, answer)

    def grant(self, row: int, numbers: Numbers) -> rows.Row:
        """`GRANT`'s columns of a new reservation."""
        if row not in self._grants:
            return _NO_GRANT
        digest, answer = self._grants[row]
        return (
            digest,
            answer.fingerprint,
            answer.moment_ms,
            rows.of_caps(answer.caps),
            rows.of_balances(answer.accounts, numbers),
        )

    def end(self, row: int, numbers: Numbers) -> rows.Row:
        """Return the columns `END` of a reservation."""
        if row not in self._ends:
            return _NO_END
        digest, answer = self._ends[row]
        return digest, answer.fingerprint, rows.of_balances(answer.accounts, numbers)

    def flush(self, now_ms: int, numbers: Numbers, next_row: Callable[[int], int]) -> None:
        """Write the rest; `next_row` gives the first of so many rows."""
        keys: list[rows.Row] = [(digest, row, None) for row, (digest, _) in self._grants.items()]
        if self._others:
            numbered = list(enumerate(self._others, next_row(len(self._others))))
            self._sql.executemany(
                _ADD,
                [
                    (number, row or None, digest, now_ms, *_thin(answer, numbers))
                    for number, (row, digest, answer) in numbered
                ],
            )
            keys += [(digest, None, number) for number, (row, digest, _) in numbered if not row]
        if keys:
            self._sql.executemany(_ADD_KEY, keys)
        self.forget()

    def _found(self, statement: str, *given: int | bytes) -> StoredResponse | None:
        found = self._sql.execute(statement, given).fetchone()
        if found is None:
            return None
        fingerprint, made, token, amount, moment_ms, reason, caps, balances = found
        return StoredResponse(
            fingerprint,
            row=made,
            token=token,
            amount=amount,
            moment_ms=moment_ms,
            reason=reason,
            caps=rows.to_caps(caps),
            accounts=rows.to_balances(balances, self._name_of),
        )

    def _name_of(self, row: int) -> tuple[str, Unit]:
        scope, unit = self._sql.execute(
            "SELECT scope, unit FROM accounts WHERE id = ?", (row,)
        ).fetchone()
        return scope, Unit(unit)


def _thin(answer: StoredResponse, numbers: Numbers) -> rows.Row:
    return (
        answer.fingerprint,
        answer.row,
        answer.token,
        answer.amount,
        answer.moment_ms,
        answer.reason,
        rows.of_caps(answer.caps),
        rows.of_balances(answer.accounts, numbers),
    )
