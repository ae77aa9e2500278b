"""What a contract is given: a ledger, its budgets and its clock; and what a broken law says."""

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from inspect import cleandoc
from typing import Any, ParamSpec, Protocol

import attrs
import pytest
from runcycles import Amount

from comptroller.ledger.interface import Ledger

_P = ParamSpec("_P")


@attrs.define
class Clock:
    """Epoch milliseconds that stand still until a test advances them."""

    start: int = 1_750_000_000_000
    now: int = attrs.Factory(lambda self: self.start, takes_self=True)

    def __call__(self) -> int:
        """Return the time."""
        return self.now

    def advance(self, milliseconds: int) -> None:
        """Let so much time pass."""
        self.now += milliseconds


class SetBudget(Protocol):
    """Sets what a scope such as `tenant:acme/agent:triage` may spend in the amount's unit."""

    def __call__(self, scope: str, allocated: Amount, /) -> Awaitable[object]:
        """Set it; what the scope has spent and reserved stays."""


def law(
    test: Callable[_P, Coroutine[Any, Any, None]],
) -> Callable[_P, Coroutine[Any, Any, None]]:
    """Have a test that fails say which rule was broken: the rule is the test's docstring."""
    rule = cleandoc(test.__doc__ or "")

    @wraps(test)
    async def held(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            await test(*args, **kwargs)
        except (Exception, pytest.fail.Exception) as broken:
            broken.add_note(f"broken rule of the ledger's contract: {rule}")
            raise

    return held


@pytest.mark.anyio
class Given:
    """The fixtures of every contract. A subclass has its own `ledger`, and what else it needs."""

    @pytest.fixture
    def clock(self) -> Clock:
        """Return the time of the ledger.

        One that keeps its own skips the laws of time: `pytest.skip`.
        """
        return Clock()

    @pytest.fixture
    def ledger(self) -> Ledger:
        """Return the ledger to test, open and empty."""
        raise TypeError(
            f"{type(self).__name__} has no ledger to test: write a fixture `ledger` in it, which"
            " gives an open and empty one, and one for each test"
        )

    @pytest.fixture
    def set_budget(self, ledger: Ledger) -> SetBudget:
        """Return what sets budgets of that ledger."""
        own: SetBudget | None = getattr(ledger, "set_budget", None)
        if own is None:
            raise TypeError(
                f"{type(ledger).__name__} has no set_budget: write a fixture `set_budget` in"
                f" {type(self).__name__}, which gives an async function (scope, amount) that sets"
                " a budget of the fixture `ledger`"
            )
        return own
