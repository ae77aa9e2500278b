"""The soak itself: it is small here, the same seed is the same soak, and it can fail."""

from contextlib import asynccontextmanager

import attrs
import pytest
from runcycles import Action, Amount, EventCreateRequest, Subject

from comptroller.ledger.embedded.memory import open_memory
from comptroller.testing import FaultyLedger
from soak import audited_ledgers
from soak.trials import KINDS, Plot, plot

ALONE = Plot("17.0", 12)


@pytest.mark.parametrize("number", [0, *KINDS])
def test_what_was_consumed_is_charged_or_short_through_all_weather(number):
    tally = attrs.evolve(plot(17, number), trees=8, rate=0.25).play()
    assert tally.wrong == []
    assert tally.calls > 8
    assert tally.faults.total() > 2


@pytest.mark.parametrize("kind", [{}, {"backend": "trio"}, {"ledger": "http"}])
def test_the_same_seed_is_the_same_soak(kind):
    some = attrs.evolve(ALONE, **kind)
    assert some.play() == some.play()
    assert some.play() != attrs.evolve(some, seed="18.0").play()


class Dishonest(audited_ledgers.Witness):
    """Answers as if all was well; its third commit charges nothing, or charges once more."""

    def __init__(self, inner, how):
        super().__init__(inner)
        self._how, self._commits = how, 0

    async def commit(self, reservation_id, request, *, tenant=None):
        self._commits += 1
        if self._commits != 3:
            return await super().commit(reservation_id, request, tenant=tenant)
        if self._how == "forgets":
            nothing = Amount(unit=request.actual.unit, amount=0)
            changed = request.model_copy(update={"actual": nothing})
            told = await super().commit(reservation_id, changed, tenant=tenant)
            return told.model_copy(update={"charged": request.actual})
        again = EventCreateRequest(
            idempotency_key=request.idempotency_key,
            subject=Subject(tenant=tenant),
            action=Action(kind="llm.completion", name="openai:gpt"),
            actual=request.actual,
        )
        await self.record(again, tenant=tenant)
        return await super().commit(reservation_id, request, tenant=tenant)


@pytest.mark.parametrize(
    ("how", "noticed"), [("forgets", "untrue: the ledger spent"), ("repeats", "duplicates: 17.0-")]
)
def test_it_notices_a_ledger_that_is_not_true(how, noticed, monkeypatch):
    @asynccontextmanager
    async def opened(faults):
        async with open_memory(now=audited_ledgers.loops_clock()) as behind:
            witness = Dishonest(behind, how)
            ledger = FaultyLedger(witness, faults)
            yield audited_ledgers.Books(ledger, witness, faults, ledger)

    monkeypatch.setitem(audited_ledgers.LEDGERS, "memory", opened)
    assert any(noticed in each for each in ALONE.play().wrong)
