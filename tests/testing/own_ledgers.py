"""Ledgers of users' own, each held to the contract: one keeps it, each other breaks a rule of it.

`test_contract.py` has pytest run this file.
"""

import itertools

import anyio.lowlevel
import pytest

from comptroller.errors import BudgetExceeded
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.interface import MEMBERS
from comptroller.testing.contract import Clock, LedgerContract


class Own:
    """Has the members of a ledger and no more: its budgets are set elsewhere, in `inner`."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        if name in MEMBERS:
            return getattr(self.inner, name)
        raise AttributeError(name)


class Contract(LedgerContract):
    kind = Own

    @pytest.fixture
    def anyio_backend(self):
        return "asyncio"

    @pytest.fixture
    async def ledger(self, clock):
        async with open_memory(now=clock) as inner:
            yield self.kind(inner)

    @pytest.fixture
    def set_budget(self, ledger):
        return ledger.inner.set_budget


class TestRight(Contract):
    pass


class Forgetful(Own):
    """Each request is a new one."""

    numbers = itertools.count()

    def renamed(self, request):
        key = f"{request.idempotency_key}-{next(self.numbers)}"
        return request.model_copy(update={"idempotency_key": key})

    async def reserve(self, request, *, tenant=None):
        return await self.inner.reserve(self.renamed(request), tenant=tenant)

    async def record(self, request, *, tenant=None):
        return await self.inner.record(self.renamed(request), tenant=tenant)


class TestForgetsKeys(Contract):
    kind = Forgetful


class Generous(Own):
    """Looks first and takes afterwards: what comes in between is not seen."""

    async def reserve(self, request, *, tenant=None):
        request = request.model_copy(update={"overage_policy": None})
        seen = (await self.inner.balances(tenant=request.subject.tenant)).balances
        await anyio.lowlevel.checkpoint()
        if all(one.remaining.amount >= request.estimate.amount for one in seen):
            try:
                return await self.inner.reserve(request, tenant=tenant)
            except BudgetExceeded:
                await self.inner.fund("tenant:acme", request.estimate)
        return await self.inner.reserve(request, tenant=tenant)


class TestLooksAndThenTakes(Contract):
    kind = Generous


class Open(Own):
    """Whoever asks sees everything."""

    async def reservation(self, reservation_id, *, tenant=None):
        return await self.inner.reservation(reservation_id)

    async def commit(self, reservation_id, request, *, tenant=None):
        return await self.inner.commit(reservation_id, request)


class TestShowsAllToAll(Contract):
    kind = Open


class Raw(Own):
    """Raises an error of its own for a denial."""

    async def reserve(self, request, *, tenant=None):
        try:
            return await self.inner.reserve(request, tenant=tenant)
        except BudgetExceeded as denied:
            raise RuntimeError("not enough") from denied


class TestRaisesErrorsOfItsOwn(Contract):
    kind = Raw


class Lavish(Own):
    """A commit keeps what it did not use."""

    async def commit(self, reservation_id, request, *, tenant=None):
        held = (await self.inner.reservation(reservation_id, tenant=tenant)).reserved
        whole = request.model_copy(update={"actual": held})
        return await self.inner.commit(reservation_id, whole, tenant=tenant)


class TestChargesTheEstimate(Contract):
    kind = Lavish


class TestLeasesNeverEnd(Contract):
    @pytest.fixture
    async def ledger(self, clock):
        async with open_memory(now=Clock()) as inner:
            yield Own(inner)


class TestKeepsItsOwnTime(Contract):
    @pytest.fixture
    def clock(self):
        pytest.skip("the ledger keeps its own time")

    @pytest.fixture
    async def ledger(self):
        async with open_memory() as inner:
            yield Own(inner)


class TestNoLedger(LedgerContract):
    pass


class TestNoWayToSetBudgets(Contract):
    set_budget = LedgerContract.set_budget
