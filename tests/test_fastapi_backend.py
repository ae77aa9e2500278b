"""`examples/fastapi_backend.py` on a real server, with readers who leave when it suits them.

The server runs in a thread of its own, on loopback; its ledger is a file, which is read when the
server has gone.
"""

import asyncio
import gc
import importlib
import json
import logging
import socket
import sys
import threading
import time
import weakref
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn
from agents import ModelSettings, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from runcycles import Unit

from comptroller import Limits, PriceBook, TokenCount, open_ledger, tokens
from comptroller.core.call_lifecycle import Outcome
from comptroller.testing import BlockedModel, CountingModel, StreamingModel, assert_settled, spent

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL, MOST_TOKENS = "gpt-4.1-mini", 5000
PATIENCE = 30  # seconds until something that must happen counts as missing


def price(**counts):
    return PriceBook().price(MODEL, TokenCount(**counts)).amount


def eventually(holds):
    """Look again until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


class Endless(StreamingModel):
    """Speaks on and on."""

    def __init__(self):
        super().__init__(*["word "] * 100_000, pause=0.001, tokens=(400, 60))


class Pensive(StreamingModel):
    """Says two words, and then nothing more."""

    def __init__(self):
        super().__init__("Well, ", "well ", tokens=(400, 60))

    async def _deltas(self, turn):
        async for delta in super()._deltas(turn):
            yield delta
        await asyncio.Event().wait()


class Clogged:
    """The app behind a client that reads `pieces` of a stream and takes no more: whoever sends the
    next one waits until the connection is closed.
    """

    def __init__(self, app, pieces):
        self.app, self.pieces = app, pieces
        self.full = threading.Event()

    async def __call__(self, scope, receive, send):
        taken = 0

        async def take(message):
            nonlocal taken
            taken += message["type"] == "http.response.body"
            if taken > self.pieces:
                self.full.set()
                await anyio.sleep_forever()
            await send(message)

        streams = scope["type"] == "http" and scope["path"] == "/stream"
        await self.app(scope, receive, take if streams else send)


class Served:
    """The backend, and what the test may ask of it."""

    def __init__(self, backend, ledger):
        self.backend, self.ledger = backend, ledger
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "http://{}:{}".format(*self.listener.getsockname())

    def say(self, model):
        """Let this model answer."""
        model.model = MODEL
        self.model = model
        self.backend.support = self.backend.support.clone(
            model=model, model_settings=ModelSettings(max_tokens=MOST_TOKENS)
        )

    def start(self, app=None, **settings):
        settings = {"log_config": None, "timeout_graceful_shutdown": PATIENCE, **settings}
        self.server = uvicorn.Server(uvicorn.Config(app or self.backend.app, **settings))
        self.thread = threading.Thread(
            target=anyio.run,
            args=[self.server.serve, [self.listener]],
            daemon=True,  # a server that hangs fails its test, not the whole session
        )
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def asked(self, tenant="acme"):
        return {
            "params": {"question": "Tell me a story."},
            "headers": {"X-Tenant": tenant},
            "timeout": PATIENCE,
        }

    def ask(self, tenant="acme", path="/ask"):
        return httpx.get(self.address + path, **self.asked(tenant))

    def listen(self):
        return httpx.stream("GET", f"{self.address}/stream", **self.asked())

    @property
    def runs(self):
        return list(self.backend.app.state.supervisor.runs.values())

    def ended(self):
        """The only run, which ends."""
        eventually(lambda: [run.status for run in self.runs] not in ([], ["running"]))
        [run] = self.runs
        return run

    def books(self, tenant="acme"):
        """What the file says was spent; nothing is reserved in it."""

        async def read():
            async with open_ledger(self.ledger) as ledger:
                await assert_settled(ledger)
                return (await spent(ledger, tenant))[Unit.USD_MICROCENTS]

        return anyio.run(read)


@pytest.fixture
def served(monkeypatch, tmp_path):
    ledger = str(tmp_path / "ledger.db")
    monkeypatch.setenv("COMPTROLLER_LEDGER", ledger)
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("_common", "fastapi_backend"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    served = Served(importlib.import_module("fastapi_backend"), ledger)
    with served.listener:
        yield served
        if served.thread.is_alive():
            served.stop()


@pytest.fixture
def log(caplog, capfd):
    """Checks that nothing was reported as an error: not by the server, by asyncio, or by us."""
    caplog.set_level(logging.INFO)

    def is_clean():
        gc.collect()
        written = capfd.readouterr()
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
        assert [r.getMessage() for r in caplog.records if r.exc_info] == []
        assert "Traceback" not in caplog.text + written.out + written.err

    return is_clean


def is_cut_off(served, run):
    """It has ended as cancelled, charged for what the model read and said."""
    assert run.status == "cancelled"
    [line] = run.receipt.calls
    assert (line.outcome, line.actual_source) == (Outcome.ABANDONED, "streamed")
    words = served.model.streamed.count(" ")
    read = line.reserved.amount - price(output=MOST_TOKENS)
    said = price(output=2 * words)  # five or six characters each
    assert 0 < read < price(input=100)
    assert run.receipt.charged == {Unit.USD_MICROCENTS: read + said}
    assert served.books() == read + said
    assert served.model.dispatches == served.model.unanswered == 1


def test_a_plain_answer(served, log):
    served.say(CountingModel("Once upon a time.", tokens=(400, 60)))
    served.start()
    answer = served.ask()
    assert (answer.status_code, answer.json()["answer"]) == (200, "Once upon a time.")
    served.stop()
    assert served.ended().status == "completed"
    assert served.model.consumed == 460
    assert served.books() == price(input=400, output=60)
    log()


def test_a_reader_who_reads_to_the_end(served, log):
    served.say(StreamingModel("Once ", "upon ", "a time.", tokens=(400, 60)))
    served.start()
    with served.listen() as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = [line for line in answer.iter_lines() if line]
    assert told == ['data: "Once "', 'data: "upon "', 'data: "a time."']
    served.stop()
    assert served.ended().status == "completed"
    assert served.books() == price(input=400, output=60)
    log()


@pytest.mark.parametrize("model", [Endless, Pensive], ids=["in mid-stream", "while it thinks"])
def test_a_reader_who_leaves(model, served, log):
    served.say(model())
    served.start()
    with served.listen() as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        next(lines)
    run = served.ended()
    served.stop()
    is_cut_off(served, run)
    log()


@pytest.mark.parametrize("pieces", [1, 3], ids=["the first piece", "a later piece"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_reader_who_leaves_while_the_generator_stands_at_yield(
    http, pieces, served, log, monkeypatch
):
    made, server_sent = [], served.backend.server_sent
    monkeypatch.setattr(
        served.backend,
        "server_sent",
        lambda *asked: made.append(weakref.ref(generator := server_sent(*asked))) or generator,
    )
    served.say(Endless())
    clogged = Clogged(served.backend.app, pieces)
    served.start(clogged, http=http)
    with served.listen() as answer:
        lines = (line for line in answer.iter_lines() if line)
        for _ in range(pieces):
            next(lines)
        assert clogged.full.wait(PATIENCE)
        [generator] = [each() for each in made]
        assert generator.ag_frame is not None
        assert generator.ag_await is None  # it waits for nobody: it stands at `yield`
        assert not generator.ag_running
        assert served.runs[0].status == "running"
        del generator
    run = served.ended()
    served.stop()
    is_cut_off(served, run)
    log()


def test_a_reader_who_leaves_before_the_first_piece(served, log):
    """The endpoint waits for the model; what then comes has nobody to go to."""
    served.say(BlockedModel("too late", tokens=(400, 60)))
    served.start()
    with socket.create_connection(served.listener.getsockname()) as reader:
        request = "GET /stream?question=x HTTP/1.1\r\nHost: x\r\nX-Tenant: acme\r\n\r\n"
        reader.sendall(request.encode())
        eventually(lambda: served.model.in_flight)
    served.model.release()
    run = served.ended()
    served.stop()
    assert run.status in ("completed", "cancelled")
    assert served.books() == run.receipt.charged[Unit.USD_MICROCENTS] > 0
    log()


@pytest.mark.parametrize("path", ["/ask", "/stream"])
@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        ("globex", "What is left of the budget does not cover this request."),
        ("hooli", "There is no budget for this request."),
    ],
    ids=["used up", "no budget"],
)
def test_a_tenant_that_may_not_spend_is_told_so(tenant, said, path, served, log):
    served.say(CountingModel())
    served.start()
    answer = served.ask(tenant, path)
    assert answer.status_code == 402
    assert answer.json()["detail"] == said  # no amount, path or operator's command
    served.stop()
    assert served.model.dispatches == 0
    assert served.books("globex") == 0
    log()


@pytest.mark.parametrize("path", ["/ask", "/stream"])
def test_a_budget_in_another_unit_is_no_crash_and_tells_the_customer_nothing(path, served, log):
    """Whatever refusal it is, it has a status of its own: none is a 500."""

    async def fund():
        async with open_ledger(served.ledger) as ledger:
            await ledger.set_budget("tenant:hooli", tokens(5))

    anyio.run(fund)
    served.say(CountingModel())
    served.start()
    answer = served.ask("hooli", path)
    assert answer.status_code == 503
    assert answer.json() == {
        "detail": "This request cannot be answered at the moment.",
        "code": "UNIT_MISMATCH",
    }
    served.stop()
    assert served.model.dispatches == 0
    log()


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="CPython 3.12.1 now and then dies in its garbage collector here (segmentation fault)",
)
@pytest.mark.parametrize("path", ["/ask", "/stream"])
def test_a_limit_of_the_backend_is_not_the_budgets_fault(path, served, log):
    served.say(CountingModel())
    served.backend.limits = Limits(llm_calls=0)
    served.start()
    answer = served.ask(path=path)
    assert (answer.status_code, served.model.dispatches) == (429, 0)
    served.stop()
    log()


def test_a_denial_in_mid_stream_is_an_event(served, log):
    first = [assistant_message("One moment."), function_call("look", {}, call_id="1")]
    served.say(ScriptedModel([first, [assistant_message("never said")]]))
    served.backend.limits = Limits(llm_calls=1)

    @function_tool
    def look() -> str:
        """Look something up."""
        return "found"

    served.backend.support = served.backend.support.clone(tools=[look])
    served.start()
    with served.listen() as answer:
        told = [line for line in answer.iter_lines() if line]
    assert answer.status_code == 200
    assert told[-2] == "event: denied"
    said = json.loads(told[-1].removeprefix("data: "))
    assert said == "This request has reached the limit of what one request may use."
    served.stop()
    assert served.ended().status == "denied"
    served.books()
    log()


def test_a_server_that_stops_under_its_readers_hands(served):
    """It does not wait for them longer than it is told, and their runs are settled."""
    served.say(Pensive())
    served.start(timeout_graceful_shutdown=0)
    with served.listen() as answer:
        next(answer.iter_lines())
        eventually(lambda: served.model.streamed.count(" ") == 2)
        served.stop()
    is_cut_off(served, served.ended())
