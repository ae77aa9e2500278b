"""The same ledger as it is often built: Redis, and one Lua script per operation.

Balances are hashes, one per scope, a reservation is a hash, and an idempotency key leads to its
request's fingerprint and to the answer, for a day. It takes the protocol's requests and gives its
answers, balances included, and what it has answered outlives its process as at `NORMAL`: Redis
appends it to a file, which is brought to the disk every second. Left out, in favour of Redis: other
units, overage policies, debt, caps, periods, expiry, reports, the event log, and amounts that a
double does not hold.
"""

import hashlib
import time
from collections.abc import Sequence
from types import TracebackType

import redis.asyncio
from runcycles import (
    CommitRequest,
    CommitResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
)

LEASE_MS, REMEMBERED_MS = 60_000, 86_400_000

RECALL = """
local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer')
if known[1] then
    if known[1] ~= ARGV[1] then return redis.error_reply('IDEMPOTENCY_MISMATCH') end
    return known[2]
end
local function amount(count) return {unit = 'USD_MICROCENTS', amount = tonumber(count)} end
local function balance(name)
    local found = redis.call('HMGET', name, 'allocated', 'spent', 'reserved')
    return {
        scope = name, scope_path = name, allocated = amount(found[1]), spent = amount(found[2]),
        reserved = amount(found[3]), remaining = amount(found[1] - found[2] - found[3]),
    }
end
local function remember(answer)
    answer = cjson.encode(answer)
    redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'answer', answer)
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return answer
end
"""

RESERVE = (
    RECALL
    + """
local held = {}
for index = 3, #KEYS do
    local found = redis.call('HMGET', KEYS[index], 'allocated', 'spent', 'reserved', 'frozen')
    if found[1] then
        if found[4] == '1' then return redis.error_reply('BUDGET_FROZEN') end
        if found[1] - found[2] - found[3] < tonumber(ARGV[4]) then
            return redis.error_reply('BUDGET_EXCEEDED')
        end
        held[#held + 1] = KEYS[index]
    end
end
if #held == 0 then return redis.error_reply('NOT_FOUND') end
local balances = {}
for index, name in ipairs(held) do
    redis.call('HINCRBY', name, 'reserved', ARGV[4])
    balances[index] = balance(name)
end
redis.call(
    'HSET', KEYS[2], 'status', 'ACTIVE', 'amount', ARGV[4], 'request', ARGV[5],
    'expires_ms', ARGV[6], 'held', cjson.encode(held)
)
redis.call('ZADD', 'active', ARGV[6], ARGV[3])
return remember({
    decision = 'ALLOW', reservation_id = ARGV[3], reserved = amount(ARGV[4]),
    expires_at_ms = tonumber(ARGV[6]), affected_scopes = held, balances = balances,
})
"""
)

COMMIT = (
    RECALL
    + """
local found = redis.call('HMGET', KEYS[2], 'status', 'amount', 'expires_ms', 'held')
if not found[1] then return redis.error_reply('NOT_FOUND') end
if found[1] ~= 'ACTIVE' then return redis.error_reply('RESERVATION_FINALIZED') end
if tonumber(found[3]) < tonumber(ARGV[5]) then
    return redis.error_reply('RESERVATION_EXPIRED')
end
local balances = {}
for index, name in ipairs(cjson.decode(found[4])) do
    redis.call('HINCRBY', name, 'reserved', -found[2])
    redis.call('HINCRBY', name, 'spent', ARGV[4])
    balances[index] = balance(name)
end
redis.call('HSET', KEYS[2], 'status', 'COMMITTED', 'charged', ARGV[4], 'finalized_ms', ARGV[5])
redis.call('ZREM', 'active', ARGV[3])
return remember({status = 'COMMITTED', charged = amount(ARGV[4]), balances = balances})
"""
)


class RedisLedger:
    """The two operations, with a connection for each caller."""

    def __init__(self, address: str, callers: int) -> None:
        self._redis = redis.asyncio.Redis.from_url(address, max_connections=callers)
        self._reserve = self._redis.register_script(RESERVE)
        self._commit = self._redis.register_script(COMMIT)

    async def __aenter__(self) -> "RedisLedger":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._redis.aclose()

    async def set_budget(self, scope: str, allocated: int) -> None:
        """Set what `scope` may spend."""
        await self._redis.hset(scope, mapping={"allocated": allocated, "spent": 0, "reserved": 0})

    async def reserve(
        self, request: ReservationCreateRequest, scopes: Sequence[str]
    ) -> ReservationCreateResponse:
        """Lock the estimate."""
        said, key = request.model_dump_json(exclude_none=True), request.idempotency_key
        name, ends_ms = f"rsv_{key}", time.time_ns() // 1_000_000 + LEASE_MS
        answer = await self._reserve(
            keys=[f"reserve:{key}", name, *scopes],
            args=[_digest(said), REMEMBERED_MS, name, request.estimate.amount, said, ends_ms],
        )
        return ReservationCreateResponse.model_validate_json(answer)

    async def commit(self, name: str, request: CommitRequest) -> CommitResponse:
        """Charge the actual, give back the rest."""
        said, now_ms = request.model_dump_json(exclude_none=True), time.time_ns() // 1_000_000
        answer = await self._commit(
            keys=[f"commit:{name}:{request.idempotency_key}", name],
            args=[_digest(said), REMEMBERED_MS, name, request.actual.amount, now_ms],
        )
        return CommitResponse.model_validate_json(answer)


def _digest(said: str) -> bytes:
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
