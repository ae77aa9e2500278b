"""A Cycles server on loopback, in a thread of this process, for ledgers in other processes.

It writes down what it is asked, and can hold a request, answer it with a fault, or keep its answer.
"""

import json
import re
import socket
import threading
from contextlib import contextmanager

import anyio
import anyio.from_thread
import anyio.lowlevel
import attrs
import uvicorn
from runcycles import ReleaseRequest

from comptroller.ledger.embedded.memory import open_memory
from comptroller.money import tokens
from comptroller.server import serve_ledger

VERBS = {
    re.compile(r"POST /v1/reservations"): "reserve",
    re.compile(r"POST /v1/reservations/[^/]+/(commit|release|extend)"): None,
    re.compile(r"POST /v1/events"): "record",
    re.compile(r"GET /v1/(\w+)"): None,
}


@attrs.frozen
class Asked:
    verb: str
    key: str | None
    api_key: str
    body: dict


def verb_of(line):
    for pattern, verb in VERBS.items():
        if found := pattern.fullmatch(line):
            return verb or found[1]
    return line


def fault(status, code, **headers):
    """An answer in place of the ledger's."""
    body = {"error": code, "message": "scripted", "request_id": "r"}
    return status, json.dumps(body).encode(), {"content-type": "application/json", **headers}


class Bank:
    """The server. `script[verb]` holds what happens to its next requests, in order.

    `"hold"`: nothing, and no answer. `"lose"`: it is done, and not answered. Or a `fault(...)`.
    """

    def __init__(self, keys):
        self.keys = dict(keys)
        self.asked, self.script = [], {}
        self._news = threading.Condition()
        self._portal, self.ledger = None, None
        self.url = ""

    def of(self, *verbs):
        return [(each.verb, each.key) for each in self.asked if each.verb in verbs]

    def wait_for(self, verb, count=1):
        """Until so many requests of a verb have come in."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.of(verb)) >= count, timeout=90), self.asked

    def do(self, method, *args, **named):
        """What only an operator does, or a look behind."""
        return self._portal.call(lambda: getattr(self.ledger, method)(*args, **named))

    def perform(self, work):
        """What `work` makes of the ledger, in the server's loop."""
        return self._portal.call(work, self.ledger)

    def wait_until_nobody_asks(self):
        """Until what clients sent that are dead has been done, and their connections are closed."""

        async def idle():
            quiet = 0
            while quiet < 10:  # turns of the loop: whoever is before the door has come in by then
                await anyio.lowlevel.checkpoint()
                state = self.server.server_state
                quiet = 0 if state.connections or state.tasks else quiet + 1

        self._portal.call(idle)

    def spent(self):
        (balance,) = self.do("balances", tenant="acme").balances
        return balance.spent.amount

    def lapse(self, reservation_id):
        """Its lease is over: what it held is free again, a commit is answered with 410."""
        self.do("release", reservation_id, ReleaseRequest(idempotency_key="lapse"))
        gone = fault(410, "RESERVATION_EXPIRED")
        self.script.setdefault("commit", []).append(gone)

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        verb = verb_of(f"{scope['method']} {scope['path']}")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        read = json.loads(body) if body else {}
        asked = Asked(verb, read.get("idempotency_key"), headers["x-cycles-api-key"], read)
        with self._news:
            self.asked.append(asked)
            self._news.notify_all()
        todo = self.script.get(verb, [])
        await self._answer(todo.pop(0) if todo else None, scope, body, receive, send)

    async def _answer(self, what, scope, body, receive, send):
        async def whole():
            return {"type": "http.request", "body": body, "more_body": False}

        async def nowhere(message):
            pass

        if isinstance(what, tuple):
            status, text, headers = what
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": text})
            return
        if what != "hold":
            application = serve_ledger(self.ledger, self.keys)
            await application(scope, whole, nowhere if what == "lose" else send)
        if what in ("hold", "lose"):
            await receive()  # until its client is gone

    async def serve(self, listener, ready):
        async with open_memory() as self.ledger:
            await self.ledger.set_budget("tenant:acme", tokens(1_000))
            config = uvicorn.Config(
                self, lifespan="off", log_level="error", timeout_graceful_shutdown=1
            )
            self.server = uvicorn.Server(config)
            ready.set()
            await self.server.serve([listener])


@contextmanager
def open_bank(keys=None):
    bank = Bank(keys or {"key": "acme"})
    listener = socket.create_server(("127.0.0.1", 0))
    bank.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ready = threading.Event()
    with anyio.from_thread.start_blocking_portal() as bank._portal:
        serving = bank._portal.start_task_soon(bank.serve, listener, ready)
        assert ready.wait(30)
        try:
            yield bank
        finally:
            bank.server.should_exit = True
            serving.result(30)
            listener.close()
