"""Laws of idempotency: what is sent again is done once."""

import anyio
import pytest

from comptroller.errors import LedgerRefused
from comptroller.ledger.interface import Ledger
from comptroller.testing.contract.asking import (
    amount,
    balance_of,
    committing,
    event,
    granted,
    releasing,
)
from comptroller.testing.contract.given import Given, SetBudget, law


class ReplayLaws(Given):
    """The same answer for the same key of a tenant and endpoint (protocol, IDEMPOTENCY)."""

    @law
    async def test_every_request_that_is_sent_again_is_done_once(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """What is sent again under its key is answered as at first, and done once (protocol,
        IDEMPOTENCY): a commit whose answer was lost would be charged twice.
        """
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k1", 10)
        assert await granted(ledger, "k1", 10) == one
        two = await granted(ledger, "k2", 20)
        for _ in range(2):
            await ledger.commit(one, committing("c", 4))
            await ledger.release(two, releasing("l"))
            await ledger.record(event("e", 5))
        shown = await balance_of(ledger, "tenant:acme")
        assert (shown["spent"], shown["reserved"]) == (9, 0)

    @law
    async def test_the_same_request_at_the_same_time_is_performed_once(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """What is sent twice under one key at the same time is done once, too (protocol,
        IDEMPOTENCY).
        """
        await set_budget("tenant:acme", amount(100))
        answers = []

        async def ask() -> None:
            answers.append(await granted(ledger, "k", 10))

        async with anyio.create_task_group() as callers:
            for _ in range(20):
                callers.start_soon(ask)
        assert len(answers) == 20
        assert len(set(answers)) == 1
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 10

    @law
    async def test_a_commit_is_replayed_with_its_own_balances(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """A replay repeats the first answer verbatim, with the balances of that moment (protocol,
        IDEMPOTENCY).
        """
        await set_budget("tenant:acme", amount(100))
        one = await granted(ledger, "k", 10)
        first = await ledger.commit(one, committing("c", 4))
        await granted(ledger, "other", 20)
        assert await ledger.commit(one, committing("c", 4)) == first

    @law
    async def test_members_in_another_order_are_the_same_request(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """Under one key the same JSON is a replay, in whatever order its members are, and another
        is refused: IDEMPOTENCY_MISMATCH (protocol, IDEMPOTENCY).
        """
        await set_budget("tenant:acme", amount(100))
        first = await granted(ledger, "k", 10, metadata={"a": 1, "b": {"c": 2, "d": 3}})
        again = await granted(ledger, "k", 10, metadata={"b": {"d": 3, "c": 2}, "a": 1})
        assert again == first
        with pytest.raises(LedgerRefused) as caught:
            await granted(ledger, "k", 10, metadata={"a": 2})
        assert caught.value.error_code == "IDEMPOTENCY_MISMATCH"

    @law
    async def test_metadata_that_is_no_json_is_a_bad_request(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """Metadata is JSON, else INVALID_REQUEST."""
        await set_budget("tenant:acme", amount(100))
        with pytest.raises(LedgerRefused) as caught:
            await granted(ledger, "k", 10, metadata={"a": object()})
        assert caught.value.error_code == "INVALID_REQUEST"

    @law
    async def test_one_commit_key_serves_many_reservations(
        self, ledger: Ledger, set_budget: SetBudget
    ) -> None:
        """Keys count for each endpoint, and that of a commit names its reservation: one key may
        serve two (protocol, IDEMPOTENCY).
        """
        await set_budget("tenant:acme", amount(100))
        one, two = await granted(ledger, "k1", 10), await granted(ledger, "k2", 10)
        await ledger.commit(one, committing("done", 1))
        await ledger.commit(two, committing("done", 2))
        assert (await balance_of(ledger, "tenant:acme"))["spent"] == 3
