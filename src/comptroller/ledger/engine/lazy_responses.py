"""Answers whose balances are made when somebody looks at them.

Most callers never do, and making them costs several times as much as the rest of an answer. To
every reader such an answer is the `runcycles` model that it extends, balances included.

Accounts as the protocol shows them: balances.

Nested values are given to pydantic as plain mappings and validated at once: building each `Amount`
by itself costs several times as much. Debt, overdraft limit and `is_over_limit` are left out where
there is none, as the reference server does.
"""

from collections.abc import Generator
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, SerializerFunctionWrapHandler, TypeAdapter, model_serializer
from pydantic_core import to_json
from runcycles import (
    Balance,
    CommitResponse,
    EventCreateResponse,
    ReleaseResponse,
    ReservationCreateResponse,
    ReservationExtendResponse,
    Unit,
)

from comptroller.core.accounts import Account, Accounts
from comptroller.core.scopes import leaf_scope

_BALANCES = TypeAdapter(list[Balance])


def amount(unit: Unit, count: int) -> dict[str, Any]:
    """Return an amount. Its unit is named: outside of a model pydantic is slow to write an enum."""
    return {"unit": unit._value_, "amount": count}


def balance(account: Account) -> dict[str, Any]:
    """Return a balance."""
    unit = account.unit
    shown: dict[str, Any] = {
        "scope": leaf_scope(account.scope),
        "scope_path": account.scope,
        "remaining": amount(unit, account.remaining),
        "reserved": amount(unit, account.reserved),
        "spent": amount(unit, account.spent),
        "allocated": amount(unit, account.allocated),
    }
    if account.debt:
        shown["debt"] = amount(unit, account.debt)
    if account.overdraft_limit:
        shown["overdraft_limit"] = amount(unit, account.overdraft_limit)
    if account.is_over_limit:
        shown["is_over_limit"] = True
    return shown


def balances(accounts: Accounts) -> list[Balance]:
    """Return the balances of all of them."""
    return _BALANCES.validate_python([balance(account) for account in accounts])


class _LazyBalances(BaseModel):
    """`__pydantic_private__` holds the accounts until their balances are made.

    It goes with copies and pickles. A `PrivateAttr` would cost as much as the answer itself.
    """

    def __getattr__(self, name: str) -> Any:
        """Make what is not there yet."""
        if name != "balances":
            return super().__getattr__(name)  # type: ignore[misc]  # hidden from type checkers
        made = self.__dict__["balances"] = balances((self.__pydantic_private__ or {})["accounts"])
        self.__pydantic_fields_set__.add("balances")
        object.__setattr__(self, "__pydantic_private__", None)
        return made

    def _whole(self) -> None:
        self.balances  # noqa: B018 - it is there once it was looked at

    def __eq__(self, other: object) -> bool:
        for one in (self, other):
            if isinstance(one, _LazyBalances):
                one._whole()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # as every model that can change

    def __iter__(self) -> Generator[tuple[str, Any], None, None]:
        self._whole()
        yield from super().__iter__()

    def __repr_args__(self) -> Any:
        self._whole()
        return super().__repr_args__()

    @model_serializer(mode="wrap")
    def _serialized(self, serialize: SerializerFunctionWrapHandler) -> Any:
        self._whole()
        return serialize(self)


class LazyReserveResponse(_LazyBalances, ReservationCreateResponse):
    """A reserve that was granted."""


class LazyCommitResponse(_LazyBalances, CommitResponse):
    """A commit."""


class LazyReleaseResponse(_LazyBalances, ReleaseResponse):
    """A release."""


class LazyExtendResponse(_LazyBalances, ReservationExtendResponse):
    """An extension."""


class LazyEventResponse(_LazyBalances, EventCreateResponse):
    """An event."""


L = TypeVar("L", bound=_LazyBalances)
M = TypeVar("M", bound=BaseModel)


@cache
def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return the members of a model in its own order, those that have no default as None."""
    fields = model.model_fields.items()
    return {name: None if field.is_required() else field.default for name, field in fields}


def made(model: type[M], members: dict[str, Any]) -> M:
    """Return a model of members that are of its fields' types already, the rest by default.

    As `model_construct`, which takes three times as long. Validating them takes longer still.
    """
    one = model.__new__(model)
    set_member = object.__setattr__
    set_member(one, "__dict__", _defaults(model) | members)
    set_member(one, "__pydantic_fields_set__", set(members))
    set_member(one, "__pydantic_extra__", None)
    set_member(one, "__pydantic_private__", None)
    return one


def as_json(answer: BaseModel) -> bytes:
    """Return `model_dump_json(exclude_none=True)`, without making the balances for it."""
    private = answer.__pydantic_private__ if isinstance(answer, _LazyBalances) else None
    if private is None:
        return answer.model_dump_json(exclude_none=True).encode()
    said: dict[str, Any] = {name: one for name, one in answer.__dict__.items() if one is not None}
    said["balances"] = list(map(balance, private["accounts"]))
    return to_json(said, exclude_none=True)


def lazy(model: type[L], members: dict[str, Any], accounts: Accounts) -> L:
    """Return an answer of these members (see `made`), and of the balances of `accounts`."""
    one = made(model, members)
    del one.__dict__["balances"]
    object.__setattr__(one, "__pydantic_private__", {"accounts": accounts})
    return one
