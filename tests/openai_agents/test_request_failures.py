"""A failed request to a model is released where it never began, and charged where it may have run.

Law 3, both ways: what never began costs nothing, whatever wraps the news of it; what may have run
is never released, whatever else stands beside it.
"""

import asyncio
import contextlib
import socket
import ssl

import httpx
import openai
import pytest
from agents import (
    Agent,
    ModelBehaviorError,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    UserError,
    WebSearchTool,
)
from openai import AsyncOpenAI

from comptroller import governed_run, open_ledger, tokens
from comptroller.openai_agents.request_failures import never_began
from comptroller.testing import CountingModel
from openai_agents.scenarios.models import refused_connection, status_error
from support.governed_vs_plain import Way, policy_for

NOWHERE = "http://127.0.0.1:9/v1"


def caused(error, cause):
    error.__cause__ = cause
    return error


def during(error, context):
    error.__context__ = context
    return error


def deep(error, times=3_000):
    for number in range(times):
        error = (caused if number % 2 else during)(RuntimeError("wrapped"), error)
    return error


def in_a_circle():
    error = ValueError("round and round")
    return caused(error, caused(KeyError("x"), error))


class Gateway(Exception):
    """As those of LiteLLM: a status that no server has given, with a response made up for it."""

    def __init__(self, status=500, headers=()):
        super().__init__("Connection error.")
        self.status_code = status
        self.response = httpx.Response(status, headers=list(headers))


class ClientConnectorError(OSError):
    """As aiohttp's."""


def unreachable():
    many = ExceptionGroup("", [OSError(113, "Connect call failed"), TimeoutError("slow")])
    return caused(httpx.ConnectError("x"), caused(OSError("All connection attempts failed"), many))


def tls(reason):
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def group(*errors):
    return ExceptionGroup("several", list(errors))


REFUSED, CONNECT = ConnectionRefusedError("no"), httpx.ConnectError("no")
TWICE = "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9, 0, 0), [Errno 111] ..."


@pytest.mark.parametrize(
    "error",
    [
        status_error(429),
        status_error(422),
        caused(RuntimeError("wrapped"), status_error(401)),
        httpx.HTTPStatusError("x", request=None, response=httpx.Response(402)),
        refused_connection(),
        REFUSED,
        deep(ConnectionRefusedError("no")),
        during(RuntimeError("wrapped"), httpx.ConnectTimeout("slow")),
        caused(openai.APITimeoutError(httpx.Request("POST", NOWHERE)), httpx.PoolTimeout("slow")),
        caused(Gateway(), CONNECT),
        during(Gateway(408), caused(httpx.ConnectTimeout("x"), TimeoutError())),
        caused(Gateway(503), caused(Gateway(500), ClientConnectorError("no"))),
        group(CONNECT, httpx.ConnectTimeout("slow")),
        caused(Gateway(), group(REFUSED, group(ConnectionRefusedError("::1")))),
        unreachable(),
        socket.gaierror(-2, "Name or service not known"),
        OSError(TWICE),
        ssl.SSLCertVerificationError("self-signed"),
        tls("WRONG_VERSION_NUMBER"),
        caused(httpx.ConnectError("reset in the handshake"), ConnectionResetError("lost")),
        httpx.ProxyError("403 Forbidden"),
    ],
    ids=repr,
)
def test_what_was_not_sent_or_was_refused_never_began(error):
    """Client libraries wrap it, in causes, in contexts, in groups, under a status of their own."""
    assert never_began(error)


@pytest.mark.parametrize(
    "error",
    [
        status_error(500),
        status_error(408),
        status_error(409),
        httpx.ReadTimeout("slow"),
        openai.APITimeoutError(httpx.Request("POST", NOWHERE)),
        ConnectionResetError("lost"),
        caused(Gateway(), httpx.ReadError("lost")),
        caused(Gateway(400), httpx.ReadTimeout("slow")),
        during(httpx.ReadTimeout("the second attempt"), REFUSED),
        during(httpx.ConnectError("the second attempt"), httpx.ReadTimeout("the first")),
        during(TimeoutError("of all attempts"), CONNECT),
        during(Gateway(503, {"server": "real"}.items()), CONNECT),
        during(ModelBehaviorError("what the fallback answered"), REFUSED),
        group(CONNECT, httpx.ReadTimeout("slow")),
        group(CONNECT, RuntimeError("who knows")),
        tls("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        caused(RuntimeError("wrapped"), SystemExit(404)),
        RuntimeError("who knows"),
        UserError("who knows when"),
        in_a_circle(),
        deep(RuntimeError("who knows")),
    ],
    ids=repr,
)
def test_what_may_have_run_is_never_taken_for_that(error):
    """An attempt of the client's own may have broken off after sending, before or after another."""
    assert not never_began(error)


def test_what_was_being_handled_when_it_was_asked_says_nothing_about_it():
    """Python makes that a context of whatever is raised meanwhile, as of a fallback's error."""
    assert not never_began(during(RuntimeError("who knows"), REFUSED), around=REFUSED)


class Failing(CountingModel):
    """Raises what it is given, before or after it has waited, or an event has come."""

    def __init__(self, error, *, waits=False, begins=False):
        super().__init__("so far")
        self.error, self.waits, self.begins = error, waits, begins

    def __repr__(self):
        return f"{self.error!r}, waits={self.waits}, begins={self.begins}"

    async def _fail(self):
        if self.waits:
            await asyncio.sleep(0)
        raise self.error

    async def get_response(self, *_, **__):
        await self._fail()

    async def stream_response(self, *args, **names):
        if self.begins:
            async for event in super().stream_response(*args, **names):
                yield event
                break
        await self._fail()


async def outcome(agent, given="go", *, streamed=False):
    """Of its one call, whatever it raised, and what was charged."""
    async with open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", tokens(10**6))
        async with governed_run(agent, "acme", ledger=ledger, policy=policy_for(Way())) as run:
            with contextlib.suppress(Exception):  # the receipt is what counts
                if streamed:
                    _ = [event async for event in run.stream(given)]
                else:
                    await run(given)
        [line] = run.receipt.calls
        [budget] = await ledger.budgets()
        assert budget.spent.amount == (line.charged.amount if line.charged else 0)
        assert not budget.reserved.amount
    return line.outcome.value


FILE = [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x.org/a"}]}]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("model", "tools", "given"),
    [
        (OpenAIChatCompletionsModel, [WebSearchTool()], "go"),
        (OpenAIChatCompletionsModel, [], FILE),
        (OpenAIChatCompletionsModel, [], "go"),
        (OpenAIResponsesModel, [], "go"),
    ],
    ids=["hosted tool", "file", "chat", "responses"],
)
async def test_a_use_that_the_sdk_refuses_and_a_server_that_is_down_cost_nothing(
    model, tools, given, streamed
):
    client = AsyncOpenAI(base_url=NOWHERE, api_key="k", max_retries=0)
    agent = Agent("A", model=model(model="gpt-4.1", openai_client=client), tools=tools)
    assert await outcome(agent, given, streamed=streamed) == "released"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("model", "streamed", "ended"),
    [
        (Failing(UserError("wrong use")), False, "released"),
        (Failing(UserError("wrong use")), True, "released"),
        (Failing(UserError("no good answer"), waits=True), False, "abandoned"),
        (Failing(UserError("no good answer"), waits=True), True, "abandoned"),
        (Failing(UserError("no good answer"), begins=True), True, "abandoned"),
        (Failing(status_error(429), begins=True), True, "abandoned"),
        (Failing(httpx.ConnectError("the next attempt"), begins=True), True, "abandoned"),
    ],
    ids=repr,
)
async def test_once_it_was_waited_for_or_heard_of_it_may_have_run(model, streamed, ended):
    """The SDK refuses a wrong use before it asks; some models find their answer wrong as well."""
    assert await outcome(Agent("A", model=model), streamed=streamed) == ended


@pytest.mark.anyio
async def test_an_error_that_a_fallback_is_tried_after_is_not_the_fallbacks_own():
    """`except ConnectionRefusedError: await run(...)`: that context comes from outside."""
    agent = Agent("A", model=Failing(RuntimeError("who knows"), waits=True))
    try:
        raise ConnectionRefusedError("the first provider is down")
    except ConnectionRefusedError:
        assert await outcome(agent) == "abandoned"
