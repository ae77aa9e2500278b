"""The same faults one layer below: between a client and its server, as an httpx transport.

    transport = FaultyTransport(httpx.ASGITransport(serve_ledger(ledger, keys)), Faults(seed=7))
    async with open_cycles("http://cycles", api_key="key", transport=transport) as remote: ...

Nothing of the client is left out then: what a lost connection, a 502 of a proxy or half an answer
really is to it, its own retries included.
"""

from contextlib import suppress

import anyio
import attrs
import httpx

from comptroller.testing.faults import Fault, Faults

_SUCCESSES = range(200, 300)


class FaultyTransport(httpx.AsyncBaseTransport):
    """Hands requests on to `inner`, and has them meet faults on the way (see `Faults`).

    Args:
        inner: what carries them: a pool of connections, or `httpx.ASGITransport(serve_ledger(...))`
            for a server in this very process.
        faults: the dice.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, faults: Faults) -> None:
        self.inner, self.faults = inner, faults
        self._late: list[_Late] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        await request.aread()
        verb = f"{request.method} {request.url.path.rpartition('/')[2]}"
        fault = self.faults.fault(verb, request.headers.get("X-Idempotency-Key")) or Fault()
        if fault.after:
            await anyio.sleep(fault.after)
        if fault.overtaken_by:
            self._late.append(_Late(fault.overtaken_by, request))
        elif fault.reaches:
            if fault.twice:
                await self._sent(request)
            answer = await self._sent(request)
            await self._let_pass()
            if fault.status is None:
                return answer
            if fault.status in _SUCCESSES:  # cut off in the middle, under a header that says well
                return httpx.Response(answer.status_code, content=answer.content[:7])
        return _failed(request, fault)

    async def arrive(self) -> None:
        """Let everything arrive that was overtaken."""
        while self._late:
            await self._arrived(self._late.pop(0))

    async def aclose(self) -> None:
        """Close `inner`."""
        await self.inner.aclose()

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        """Return the whole answer, read."""
        answer = await self.inner.handle_async_request(request)
        await answer.aread()
        return answer

    async def _let_pass(self) -> None:
        for late in self._late:
            late.behind -= 1
        due = [late for late in self._late if late.behind <= 0]
        self._late = [late for late in self._late if late.behind > 0]
        for late in due:
            await self._arrived(late)

    async def _arrived(self, late: "_Late") -> None:
        with suppress(httpx.HTTPError):
            await self._sent(late.request)


@attrs.define
class _Late:
    """A request whose sender has given up; `behind`: so many are still before it."""

    behind: int
    request: httpx.Request


def _failed(request: httpx.Request, fault: Fault) -> httpx.Response:
    """Return what its sender sees in place of the answer."""
    if fault.status is None or fault.status < 0:
        kind = httpx.ReadError if fault.reaches else httpx.ConnectError
        raise kind("connection reset by a fault", request=request)
    seconds = -(-(fault.retry_after_ms or 0) // 1000)
    return httpx.Response(
        fault.status,
        headers={"Retry-After": str(seconds)} if fault.retry_after_ms is not None else {},
        json={
            "error": fault.error_code,
            "message": f"{fault.status} (made up)",
            "request_id": "fault",
        },
    )
