"""A web backend that answers customers of several tenants, each within its tenant's budget.

    pip install -r examples/requirements-fastapi.txt
    python examples/fastapi_backend.py          # serves on http://127.0.0.1:8000
    python examples/fastapi_backend.py --try    # asks itself a few questions, and ends

`/ask` answers when it is done, `/stream` as server-sent events while the model speaks. A reader who
leaves ends the run: it is cancelled, settled, and charged for what was said until then.
"""

import json
import logging
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import httpx
import uvicorn
from _common import ledger, model
from agents import Agent
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse

from comptroller import (
    BudgetExceeded,
    BudgetNotFound,
    CallDenied,
    ComptrollerError,
    LimitReached,
    Limits,
    open_supervisor,
    usd,
)

STORY = "Once upon a time a ledger and a language model shared a house by the lake. " * 3
support = Agent(
    name="Support",
    instructions="Answer the customer.",
    model=model("gpt-4.1-mini", STORY, pause=0.01),
)
limits = Limits(seconds=120, llm_calls=20)  # of one request
TEXT = "response.output_text.delta"
log = logging.getLogger("backend")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with ledger(acme=usd("1"), globex=usd("0.00001")) as app.state.books:
        async with open_supervisor(ledger=app.state.books) as app.state.supervisor:
            yield


app = FastAPI(lifespan=lifespan)
Tenant = Annotated[str, Header(alias="X-Tenant")]  # in earnest it comes from who has logged in


@app.exception_handler(ComptrollerError)
async def refused(request: Request, error: ComptrollerError) -> JSONResponse:
    """The customer reads `error.public`; what is in `error` itself is for who runs this."""
    log.warning("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse({"detail": error.public, "code": code(error)}, status(error))


def status(error: ComptrollerError) -> int:
    if isinstance(error, LimitReached):
        return 429
    if isinstance(error, (BudgetExceeded, BudgetNotFound)):
        return 402
    return 503  # the ledger is away, or set up wrongly (UnitMismatch)


def code(error: ComptrollerError) -> str:
    """For programs: BUDGET_EXCEEDED, BUDGET_FROZEN, LIMIT_REACHED, ..."""
    return getattr(error, "reason_code", None) or getattr(error, "error_code", None) or "REFUSED"


@app.get("/ask")
async def ask(question: str, tenant: Tenant) -> dict[str, str]:
    async with app.state.supervisor.run(support, tenant, limits=limits) as run:
        result = await run(question)
    return {"answer": result.final_output, "run": run.id}


@app.get("/stream")
async def stream(question: str, tenant: Tenant) -> StreamingResponse:
    events = server_sent(question, tenant)
    first = await anext(events, "")  # a denial comes here, while the status can still say so
    return StreamingResponse(Resumed(first, events), media_type="text/event-stream")


async def server_sent(question: str, tenant: str) -> AsyncGenerator[str]:
    """The answer, piece by piece. Closed at any of them, the run is cancelled."""
    async with app.state.supervisor.run(support, tenant, limits=limits) as run:
        begun = False
        try:
            async for event in run.stream(question):
                if event.type == "raw_response_event" and event.data.type == TEXT:
                    begun = True
                    yield f"data: {json.dumps(event.data.delta)}\n\n"
        except CallDenied as denial:
            if not begun:
                raise
            log.warning("stream: %s", denial)
            yield f"event: denied\ndata: {json.dumps(denial.public)}\n\n"


class Resumed:
    """Events of which the first has come, in one iterator with the rest.

    Needed only because `stream` reads the first one itself, so that a denial can still be a status.
    Without that, `StreamingResponse(server_sent(question, tenant))` does. It is no generator around
    theirs: where nobody holds them any more, Python may close both at once, and one cannot close
    the other then.
    """

    def __init__(self, first: str, rest: AsyncIterator[str]) -> None:
        self._first: str | None = first
        self._rest = rest

    def __aiter__(self) -> "Resumed":
        return self

    async def __anext__(self) -> str:
        first, self._first = self._first, None
        return await anext(self._rest) if first is None else first


async def try_it() -> None:
    """Serve on a free port, ask, and end."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    base_url = "http://{}:{}".format(*listener.getsockname())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
            await ask_around(client)
        server.should_exit = True
    for run in app.state.supervisor.runs.values():
        print(f"-- {run.status}: {run.receipt}")


async def ask_around(client: httpx.AsyncClient) -> None:
    story = {"question": "Tell me a story."}
    for tenant in ("acme", "globex"):
        client.headers["X-Tenant"] = tenant
        answer = await client.get("/ask", params=story)
        print(f"{tenant} asks: {answer.status_code} {answer.text[:80]}")
    client.headers["X-Tenant"] = "acme"
    async with client.stream("GET", "/stream", params=story) as answer:
        heard = await anext(answer.aiter_lines())
        print(f"acme listens: {answer.status_code} {heard}, and leaves")


if __name__ == "__main__":
    if "--try" in sys.argv:
        anyio.run(try_it)
    else:
        uvicorn.run(app, timeout_graceful_shutdown=10)  # seconds for those who still listen
