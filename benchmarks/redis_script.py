"""A budget ledger as it is often built: Redis, and one Lua script per operation.

Balances are hashes, one per scope; a reservation is a hash; an idempotency key leads to the answer,
for a day. Far less than the Cycles protocol asks for, so it flatters Redis, as does its memory that
nothing is written from to a disk.
"""

from collections.abc import Sequence
from types import TracebackType

import redis.asyncio

RESERVE = """
local known = redis.call('GET', KEYS[1])
if known then return known end
local amount = tonumber(ARGV[2])
for index = 2, #KEYS do
    local spent, reserved, allocated =
        unpack(redis.call('HMGET', KEYS[index], 'spent', 'reserved', 'allocated'))
    if allocated and allocated - spent - reserved < amount then
        return redis.error_reply('BUDGET_EXCEEDED')
    end
end
for index = 2, #KEYS do redis.call('HINCRBY', KEYS[index], 'reserved', amount) end
redis.call('HSET', 'reservation:' .. ARGV[1], 'amount', amount, 'status', 'ACTIVE')
redis.call('ZADD', 'active', ARGV[3], ARGV[1])
redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
return ARGV[1]
"""

COMMIT = """
local known = redis.call('GET', KEYS[1])
if known then return known end
local name = 'reservation:' .. ARGV[1]
local amount, status = unpack(redis.call('HMGET', name, 'amount', 'status'))
if status ~= 'ACTIVE' then return redis.error_reply('RESERVATION_FINALIZED') end
for index = 2, #KEYS do
    redis.call('HINCRBY', KEYS[index], 'reserved', -amount)
    redis.call('HINCRBY', KEYS[index], 'spent', ARGV[2])
end
redis.call('HSET', name, 'status', 'COMMITTED', 'charged', ARGV[2])
redis.call('ZREM', 'active', ARGV[1])
redis.call('SET', KEYS[1], ARGV[2], 'EX', 86400)
return ARGV[2]
"""


class RedisLedger:
    """The two operations, over a Unix socket, with a connection for each caller."""

    def __init__(self, path: str, callers: int) -> None:
        self._redis = redis.asyncio.Redis(
            unix_socket_path=path, max_connections=callers, decode_responses=True
        )
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
        await self._redis.hset(
            f"budget:{scope}", mapping={"allocated": allocated, "spent": 0, "reserved": 0}
        )

    async def reserve(self, key: str, scopes: Sequence[str], amount: int) -> str:
        """Lock `amount`; the name of the reservation."""
        keys = [f"key:reserve:{key}", *(f"budget:{scope}" for scope in scopes)]
        return str(await self._reserve(keys=keys, args=[f"rsv_{key}", amount, 60_000]))

    async def commit(self, reservation: str, key: str, scopes: Sequence[str], amount: int) -> None:
        """Charge `amount`, give back the rest."""
        keys = [f"key:commit:{key}", *(f"budget:{scope}" for scope in scopes)]
        await self._commit(keys=keys, args=[reservation, amount])
