"""Ledgers that meet faults on the way, and what is really done behind them.

From the caller inwards: a desk that writes down what was asked, faults, a witness, the ledger. The
witness is an auditor: it looks at every answer that the ledger itself gives.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import current_token
from runcycles import CommitRequest, EventCreateRequest

from comptroller.errors import LedgerRefused
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.ledger.sqlite import open_sqlite
from comptroller.server import serve_ledger
from comptroller.testing import Faults, FaultyLedger, FaultyTransport, RecordingLedger

EPOCH_MS = 1_700_000_000_000
LEASES_END = 600
"""Seconds until every lease has run out that nobody extends."""

CallId = tuple[str, str]
"""Run and call."""


class Witness(RecordingLedger):
    """Stands before the ledger itself: what it says was done.

    Attributes:
        overspent: answers whose balances held more than was allocated.
        charges: by the key of a charge, what took it: a reservation, or the events.
        took: by the same key, how much.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.overspent: list[str] = []
        self.charges: dict[str, set[str]] = defaultdict(set)
        self.took: dict[str, int] = {}

    async def _handle(self, request: Any, forward: Any) -> Any:
        answer = await forward()
        for balance in getattr(answer, "balances", None) or []:
            if balance.remaining.amount < 0:
                self.overspent.append(f"{balance.scope} after {request.verb} {request.key}")
        if request.verb in ("commit", "record"):
            self.charges[request.key].add(request.reservation_id or "an event")
            self.took[request.key] = (answer.charged or request.body.actual).amount
        return answer

    @property
    def duplicates(self) -> list[str]:
        """The keys under which more than one thing was charged."""
        return [key for key, took in self.charges.items() if len(took) > 1]


class Books:
    """One ledger with everything around it.

    Attributes:
        ledger: what runs are given.
        witness: see there.
        faults: the dice.
    """

    def __init__(self, ledger: RecordingLedger, witness: Witness, faults: Faults, road: Any):
        self.ledger, self.witness, self.faults = ledger, witness, faults
        self._road = road

    async def calm(self) -> None:
        """No more faults: what is on the way arrives, and the leases that are left run out."""
        self.faults.rate = 0.0
        await self._road.arrive()
        await self.ledger.drain(LEASES_END)
        await anyio.sleep(LEASES_END)

    def sent(self) -> dict[CallId, tuple[Any, Any]]:
        """The last charge that was sent for each call, and the reservation it was sent for."""
        found: dict[CallId, tuple[Any, Any]] = {}
        for request in self.ledger.requests:
            if request.verb in ("commit", "record"):
                told = request.body.metadata
                found[told["run"], told["call"]] = (request.body, request.reservation_id)
        return found

    def reserved(self) -> dict[CallId, Any]:
        """The reserve that was sent for each call."""
        return {
            (request.body.metadata["run"], request.body.metadata["call"]): request.body
            for request in self.ledger.asked("reserve")
        }

    async def sent_again(self, call: CallId, tenant: str, actual: Any) -> int:
        """Send a charge once more under its key, as an outbox does, unless it was taken: how much.

        A lease that is over makes an event of it.
        """
        body, reservation_id = self.sent().get(call, (None, None))
        asked = self.reserved()[call]
        key = asked.idempotency_key.rpartition("/")[0] + "/commit"
        if key in self.witness.took:  # its answer was lost, or an outbox has seen to it
            return self.witness.took[key]
        if body is None:  # its owner was cut off before it could send anything
            body = CommitRequest(idempotency_key=key, actual=actual, metadata=asked.metadata)
        if reservation_id is not None:
            try:
                answer = await self.witness.commit(reservation_id, body, tenant=tenant)
            except LedgerRefused as refused:
                if refused.error_code != "RESERVATION_EXPIRED":
                    raise
            else:
                return answer.charged.amount
        event = EventCreateRequest(
            idempotency_key=body.idempotency_key,
            subject=asked.subject,
            action=asked.action,
            actual=body.actual,
            overage_policy=asked.overage_policy,
            metrics=body.metrics,
            metadata=body.metadata,
        )
        recorded = await self.witness.record(event, tenant=tenant)
        return (recorded.charged or body.actual).amount


def loops_clock() -> Callable[[], int]:
    """Epoch milliseconds on the running loop's clock, also asked for in a thread of the ledger."""
    native: Any = current_token().native_token
    seconds = getattr(native, "time", anyio.current_time)
    return lambda: EPOCH_MS + round(seconds() * 1000)


@asynccontextmanager
async def memory(faults: Faults) -> AsyncIterator[Books]:
    async with open_memory(now=loops_clock()) as behind:
        witness = Witness(behind)
        ledger = FaultyLedger(witness, faults, request_timeout=2.0)
        yield Books(ledger, witness, faults, ledger)


@asynccontextmanager
async def sqlite(faults: Faults) -> AsyncIterator[Books]:
    with TemporaryDirectory() as folder:
        async with open_sqlite(f"{folder}/ledger.db", now=loops_clock()) as behind:
            witness = Witness(behind)
            ledger = FaultyLedger(witness, faults, request_timeout=2.0)
            yield Books(ledger, witness, faults, ledger)


@asynccontextmanager
async def http(faults: Faults) -> AsyncIterator[Books]:
    """The client and the server of this package, with faults on the line between them."""

    async def key_of(tenant: str) -> str:
        return f"key-of-{tenant}"

    async with open_memory(now=loops_clock()) as behind, _folder():
        witness = Witness(behind)
        keys = {f"key-of-{tenant}": tenant for tenant in ("ample", "scant", "poor")}
        road = FaultyTransport(httpx.ASGITransport(serve_ledger(witness, keys)), faults)
        async with open_cycles(
            "http://cycles", api_key=key_of, transport=road, request_timeout=2.0
        ) as remote:
            yield Books(RecordingLedger(remote), witness, faults, road)


@asynccontextmanager
async def _folder() -> AsyncIterator[None]:
    """What a client keeps on disk is kept in a folder of this plot alone."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("COMPTROLLER_OUTBOX", folder)
        yield


LEDGERS = {"memory": memory, "sqlite": sqlite, "http": http}
