"""What can befall one request to a ledger, and the dice that choose it.

A `Fault` is a value: `ScriptedLedger` takes them from a script, `FaultyLedger` and
`FaultyTransport` from `Faults`, which throws dice from a seed.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf
from random import Random

import attrs
from attrs import field, validators

from comptroller._validation import within

_EXECUTION = re.compile(r"/[0-9a-f]{12}(?:-[0-9a-f]+)?(?=/)")
"""The part of a run's keys that is new each time its scope opens (law 7)."""


@attrs.frozen(kw_only=True)
class Fault:
    """What happens to one request. The functions below make the usual ones.

    Attributes:
        after: seconds before anything else happens.
        reaches: whether the inner ledger does what was asked.
        status: what comes back in place of the answer: an HTTP status, -1 for nothing at all;
            None: the true answer.
        error_code: the protocol's `error`.
        retry_after_ms: how long the ledger asks to wait, in milliseconds.
        lapses: the reservation's lease has run out first: the inner ledger gives it back.
        twice: what was asked arrives twice, one after the other.
        overtaken_by: it arrives only when so many later requests have; its sender has long been
            told `status`.
    """

    after: float = 0.0
    reaches: bool = True
    status: int | None = None
    error_code: str | None = None
    retry_after_ms: int | None = None
    lapses: bool = False
    twice: bool = False
    overtaken_by: int = 0

    def __attrs_post_init__(self) -> None:
        if self.status is None and (self.overtaken_by or not self.reaches):
            raise ValueError("a request that does not arrive has no answer: give a status, or -1")


def delayed(seconds: float) -> Fault:
    """Done and answered, so much later."""
    return Fault(after=seconds)


def duplicated() -> Fault:
    """Arrives twice."""
    return Fault(twice=True)


def overtaken(by: int = 1, after: float = 0.0) -> Fault:
    """Nothing comes back, and it arrives when `by` later requests have: its own retry, say."""
    return Fault(after=after, overtaken_by=by, status=-1)


def lost_request(after: float = 0.0) -> Fault:
    """Never arrived: nothing was done, nothing comes back."""
    return Fault(after=after, reaches=False, status=-1)


def lost_answer(after: float = 0.0) -> Fault:
    """Done, but nobody learns of it."""
    return Fault(after=after, status=-1)


def malformed() -> Fault:
    """Done, and answered with 200 and a body that is no answer of the protocol."""
    return Fault(status=200)


def server_error(status: int = 500, *, reaches: bool = False) -> Fault:
    """Return a 5xx: by default nothing was done."""
    return Fault(reaches=reaches, status=status, error_code="INTERNAL_ERROR")


def rate_limited(retry_after_ms: int | None = 1_000) -> Fault:
    """429: not now, and when."""
    return refused(429, "LIMIT_EXCEEDED", retry_after_ms=retry_after_ms)


def expired() -> Fault:
    """410: the lease has run out, and what it held was given back."""
    return Fault(reaches=False, status=410, error_code="RESERVATION_EXPIRED", lapses=True)


def refused(status: int, error_code: str, *, retry_after_ms: int | None = None) -> Fault:
    """Understood and refused with the protocol's `error_code`; nothing was done."""
    return Fault(reaches=False, status=status, error_code=error_code, retry_after_ms=retry_after_ms)


# -- chance

_Throw = Callable[[Random, float], Fault]

KINDS: Mapping[str, _Throw] = {
    "request lost": lambda dice, slowest: lost_request(dice.uniform(0, slowest)),
    "answer lost": lambda dice, slowest: lost_answer(dice.uniform(0, slowest)),
    "reset": lambda dice, _: Fault(reaches=dice.random() < 1 / 2, status=-1),  # at once
    "delayed": lambda dice, slowest: delayed(dice.uniform(0, slowest)),
    "duplicated": lambda _, __: duplicated(),
    "overtaken": lambda dice, slowest: overtaken(dice.randint(1, 4), dice.uniform(0, slowest)),
    "rate limited": lambda dice, slowest: rate_limited(dice.randint(0, round(slowest * 1000))),
    "server error": lambda dice, _: server_error(
        dice.choice((500, 502, 503, 504)), reaches=dice.random() < 1 / 2
    ),
    "malformed": lambda _, __: malformed(),
}
"""What may befall a request, by name."""


@attrs.define(kw_only=True)
class Faults:
    """Chance, from a seed: the same messages meet the same faults, in whatever order they come.

    The dice are thrown for each attempt of each message by itself. A message is known by its verb
    and its idempotency key, without the part that is new for each execution of a run: so a run
    with a `run_id` of your own meets the same faults again. What has no key is known by its verb.

    Attributes:
        seed: of the dice.
        rate: how many of all requests meet a fault, from 0 to 1.
        slowest: seconds of the longest delay, and of the longest `Retry-After`.
        kinds: which faults (the names in `KINDS`), all equally likely.
        thrown: how often each of them fell.
    """

    seed: int | str
    rate: float = field(default=0.1, validator=within(0, 1))
    slowest: float = field(default=1.0, validator=within(0, inf))
    kinds: Sequence[str] = field(default=tuple(KINDS), validator=validators.min_len(1))
    thrown: Counter[str] = field(factory=Counter, init=False)
    _attempts: Counter[str] = field(factory=Counter, init=False)

    @kinds.validator
    def _known(self, _: object, kinds: Sequence[str]) -> None:
        if unknown := sorted(set(kinds) - set(KINDS)):
            raise ValueError(f"{unknown[0]!r} is no kind of fault: {', '.join(KINDS)}")

    def fault(self, verb: str, key: str | None) -> Fault | None:
        """Return what befalls the next attempt of this message; None: nothing."""
        message = f"{verb} {_EXECUTION.sub('', key or '', count=1)}"
        self._attempts[message] += 1
        dice = Random(f"{self.seed} {message} {self._attempts[message]}")  # noqa: S311 - no secret
        if dice.random() >= self.rate:
            return None
        kind = dice.choice(self.kinds)
        self.thrown[kind] += 1
        return KINDS[kind](dice, self.slowest)
