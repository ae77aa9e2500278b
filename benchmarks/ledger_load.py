"""The load that `ledger.py` puts on one ledger, from a process of its own.

A pair is one reserve and one commit over three scopes, each under a new idempotency key. The
address is a ledger's as `open_ledger` takes it, `http://...` a Cycles server's, spoken to over bare
sockets so that the client costs little (`http://KEY@HOST:PORT`), or `redis://...` a Redis server's.
"""

import asyncio
import importlib.util
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any
from urllib.parse import urlsplit

import attrs
from runcycles import Action, Amount, CommitRequest, ReservationCreateRequest, Subject, Unit

from comptroller import open_ledger

SCOPES = ("tenant:acme", "tenant:acme/app:web", "tenant:acme/app:web/agent:triage")
SUBJECT = {"tenant": "acme", "app": "web", "agent": "triage"}
ACTION = {"kind": "llm.completion", "name": "openai:gpt-4.1"}
UNIT = Unit.USD_MICROCENTS
PLENTY = 10**12
ESTIMATE, ACTUAL = 10, 7
WARMING = 0.3
"""Seconds of load before the one that is measured: a process that was just forked copies its memory
page by page, and its interpreter has not seen this code yet."""


@attrs.frozen
class Load:
    """What is asked of one process."""

    address: str
    callers: int
    seconds: float
    synchronous: str = "NORMAL"


@attrs.frozen
class Measured:
    """What came of it: pairs a second, seconds of CPU a pair, how long each grant took in µs."""

    pairs: float
    cpu: float
    waits: list[int]
    least: float = 1.0
    """The share of the process that got least, of the one that got most."""


Reserve = Callable[[str], Awaitable[str]]
Commit = Callable[[str, str], Awaitable[None]]
Caller = tuple[Reserve, Commit]


def asking(key: str) -> ReservationCreateRequest:
    return ReservationCreateRequest(
        idempotency_key=key,
        subject=Subject(**SUBJECT),
        action=Action(**ACTION),
        estimate=Amount(unit=UNIT, amount=ESTIMATE),
    )


def settling(key: str) -> CommitRequest:
    return CommitRequest(idempotency_key=key, actual=Amount(unit=UNIT, amount=ACTUAL))


@asynccontextmanager
async def embedded(asked: Load) -> AsyncIterator[Callable[[], Any]]:
    """Callers of a ledger in this process."""
    async with open_ledger(asked.address, synchronous=asked.synchronous) as ledger:
        for scope in SCOPES:
            await ledger.set_budget(scope, Amount(unit=UNIT, amount=PLENTY))

        async def reserve(key: str) -> str:
            return (await ledger.reserve(asking(key))).reservation_id

        async def commit(reservation: str, key: str) -> None:
            await ledger.commit(reservation, settling(key))

        async def caller() -> Caller:
            return reserve, commit

        yield caller


class Connection(asyncio.Protocol):
    """One connection to an HTTP server that stays open; one request at a time."""

    def __init__(self, api_key: str) -> None:
        self._api_key, self._buffer = api_key, b""
        self._answer: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Answer who waits once the answer is whole."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if found and len(rest) >= length and not self._answer.done():
            self._buffer = b""
            assert head.startswith(b"HTTP/1.1 200"), head + rest
            self._answer.set_result(rest)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(error or EOFError("the server hung up"))

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: ledger\r\nX-Cycles-API-Key: {self._api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        return await self._answer


@asynccontextmanager
async def over_http(asked: Load) -> AsyncIterator[Callable[[], Any]]:
    """Callers with a connection each to a Cycles server, whose budgets are set."""
    server = urlsplit(asked.address)
    amount = {"unit": UNIT.value, "amount": ESTIMATE}
    request = {"subject": SUBJECT, "action": ACTION, "estimate": amount}
    reserving = json.dumps(request)[1:].encode()
    committing = json.dumps({"actual": amount | {"amount": ACTUAL}})[1:].encode()
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []

    async def caller() -> Caller:
        _, connection = await loop.create_connection(
            lambda: Connection(server.username or ""), server.hostname, server.port
        )
        connections.append(connection)

        async def reserve(key: str) -> str:
            body = f'{{"idempotency_key":"{key}",'.encode() + reserving
            answer = await connection.post("/v1/reservations", body)
            return answer.partition(b'"reservation_id":"')[2].partition(b'"')[0].decode()

        async def commit(reservation: str, key: str) -> None:
            body = f'{{"idempotency_key":"{key}",'.encode() + committing
            await connection.post(f"/v1/reservations/{reservation}/commit", body)

        return reserve, commit

    try:
        yield caller
    finally:
        for connection in connections:
            connection.transport.close()


@asynccontextmanager
async def redis(asked: Load) -> AsyncIterator[Callable[[], Any]]:
    """Callers that run one Lua script per operation on a Redis server."""
    from redis_script import RedisLedger

    async with RedisLedger(asked.address, asked.callers) as ledger:
        for scope in SCOPES:
            await ledger.set_budget(scope, PLENTY)

        async def reserve(key: str) -> str:
            return (await ledger.reserve(asking(key), SCOPES)).reservation_id

        async def commit(reservation: str, key: str) -> None:
            await ledger.commit(reservation, settling(key))

        async def caller() -> Caller:
            return reserve, commit

        yield caller


def opened(asked: Load) -> AbstractAsyncContextManager[Callable[[], Any]]:
    if asked.address.startswith("http://"):
        return over_http(asked)
    return redis(asked) if asked.address.startswith("redis://") else embedded(asked)


def put(asked: Load, pipe: Pipe) -> None:
    """Put the load on its ledger: says `ready`, waits to be told to begin, sends a `Measured`."""
    if asked.address.startswith("http://") and importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(main(asked, pipe))
    else:
        asyncio.run(main(asked, pipe))


async def main(asked: Load, pipe: Pipe) -> None:
    keys = (f"{os.getpid()}-{number}" for number in itertools.count())
    async with AsyncExitStack() as stack:
        caller = await stack.enter_async_context(opened(asked))
        callers = [await caller() for _ in range(asked.callers)]
        await measured(callers, keys, WARMING)
        pipe.send("ready")
        pipe.recv()
        pipe.send(await measured(callers, keys, asked.seconds))


async def measured(callers: list[Caller], keys: Iterator[str], seconds: float) -> Measured:
    """What all callers at once get done in so many seconds."""
    waits: list[int] = []
    pairs, ends = 0, time.perf_counter() + seconds

    async def work(reserve: Reserve, commit: Commit) -> None:
        nonlocal pairs
        while time.perf_counter() < ends:
            key = next(keys)
            began = time.perf_counter_ns()
            reservation = await reserve(key)
            waits.append((time.perf_counter_ns() - began) // 1000)
            await commit(reservation, key)
            pairs += 1

    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(work(*caller))
    lasted, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Measured(pairs / lasted, cpu / max(pairs, 1), sorted(waits))
