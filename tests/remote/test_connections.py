"""The connections of a remote ledger: the pool, the client inside, proxies, forks, real sockets."""

import gc
import inspect
import itertools
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest
from runcycles import (
    Action,
    AsyncCyclesClient,
    CommitRequest,
    CyclesConfig,
    ReservationCreateRequest,
    Subject,
)

from comptroller.errors import (
    ComptrollerError,
    LedgerMisbehaved,
    LedgerRefused,
    LedgerUnreachable,
)
from comptroller.ledger.remote import connections
from comptroller.ledger.remote.connections import HttpAnswer, TenantClient, pool
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.money import tokens
from support import subprocesses
from support.subprocesses import Python

pytestmark = pytest.mark.anyio

SERVER = Path(__file__).parents[2] / "benchmarks" / "cycles_server.py"
SERVERS_KEEP_ALIVE = 5  # seconds; uvicorn's and Node's default
COMMIT = CommitRequest(idempotency_key="c", actual=tokens(1))
COMMITTED = {"status": "COMMITTED", "charged": {"unit": "TOKENS", "amount": 1}}


def reserve(number):
    return ReservationCreateRequest(
        idempotency_key=f"k{number}",
        subject=Subject(tenant="acme"),
        action=Action(kind="llm.completion", name="m"),
        estimate=tokens(1),
    )


@contextmanager
def server():
    """The address of a Cycles server in a process of its own."""
    budget = json.dumps({"tenant:acme": {"TOKENS": 10**6}})
    command = [sys.executable, SERVER, "--budgets", budget]
    with Python(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield json.loads(process.stdout.readline())["url"]
        process.stdin.close()
        process.wait(20)


@asynccontextmanager
async def raw_server(answer, requests=None):
    """The address of a socket that answers any request with these bytes and hangs up.

    With None it is silent until the caller hangs up. `requests` takes the heads that were sent.
    """

    async def serve(stream):
        async with stream:
            try:
                head = await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return  # a connection that was given up before its first request
            if requests is not None:
                requests.append(head)
            if answer is None:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    await stream.receive()
            elif answer:
                await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield f"http://127.0.0.1:{port}"
            tasks.cancel_scope.cancel()


class Arrivals(list):
    """Requests as they come; `enough` is set with the n-th."""

    def __init__(self, count):
        super().__init__()
        self.count, self.enough = count, anyio.Event()

    def append(self, request):
        super().append(request)
        if len(self) >= self.count:
            self.enough.set()


def http_answer(body, length=None):
    content = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        length or len(content),
        content,
    )


def open_sockets():
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(descriptor.readlink().name)
        except OSError:
            continue  # the descriptor that listed the directory
    return sum(link.startswith("socket:") for link in links)


class Sent:
    """A sender that notes what it is given, and answers each time alike."""

    def __init__(self, status=200, body=COMMITTED, headers=()):
        self.requests = []
        self.answer = HttpAnswer(status, dict(headers), json.dumps(body).encode())

    async def send(self, method, url, headers, content):
        self.requests.append((method, url, headers, content))
        return self.answer


class TestTheClientInside:
    def test_is_what_its_replacement_was_written_for(self):
        """`TenantClient` replaces `AsyncCyclesClient`'s constructor, `_post` and `_get`.

        Where this fails, `runcycles` has changed inside: read its client, then `connections.py`.
        """
        parameters = {
            name: list(inspect.signature(getattr(AsyncCyclesClient, name)).parameters)
            for name in ("__init__", "_post", "_get", "_handle_response")
        }
        assert parameters == {
            "__init__": ["self", "config"],
            "_post": ["self", "path", "body"],
            "_get": ["self", "path", "params"],
            "_handle_response": ["resp"],
        }
        theirs = AsyncCyclesClient(CyclesConfig(base_url="http://host", api_key="key"))
        assert set(vars(theirs)) == {"_config", "_http"}
        for name in ("_post", "_get"):
            assert getattr(TenantClient, name) is not getattr(AsyncCyclesClient, name)

    async def test_all_its_requests_go_where_the_protocol_has_them(self):
        sender = Sent()
        client = TenantClient("http://host/base", "key", sender)
        await client.create_reservation(reserve(1))
        await client.commit_reservation("r", COMMIT)
        await client.get_reservation("r")
        await client.get_balances(tenant="acme & sons")
        assert [(method, url) for method, url, _, _ in sender.requests] == [
            ("POST", "http://host/base/v1/reservations"),
            ("POST", "http://host/base/v1/reservations/r/commit"),
            ("GET", "http://host/base/v1/reservations/r"),
            ("GET", "http://host/base/v1/balances?tenant=acme+%26+sons"),
        ]
        assert {headers["X-Cycles-API-Key"] for _, _, headers, _ in sender.requests} == {"key"}
        assert json.loads(sender.requests[0][3]) == reserve(1).model_dump(exclude_none=True)
        assert sender.requests[0][2]["X-Idempotency-Key"] == "k1"
        assert sender.requests[2][3] is None

    @pytest.mark.parametrize("key", ["ä", " k", "k\n", "k\x00"])
    async def test_a_key_that_no_header_can_carry_goes_in_the_body_alone(self, key):
        sender = Sent()
        request = COMMIT.model_copy(update={"idempotency_key": key})
        await TenantClient("http://host", "key", sender).commit_reservation("r", request)
        [(_, _, headers, content)] = sender.requests
        assert "X-Idempotency-Key" not in headers
        assert json.loads(content)["idempotency_key"] == key

    @pytest.mark.parametrize(
        "metadata", [{"n": float("inf")}, {"n": [float("nan")]}, {"n": object()}, {"n": "\ud800"}]
    )
    async def test_what_json_cannot_carry_is_refused_and_not_sent(self, metadata):
        sender = Sent()
        request = COMMIT.model_copy(update={"metadata": metadata})
        with pytest.raises(LedgerRefused, match="cannot be written as JSON"):
            await TenantClient("http://host", "key", sender).commit_reservation("r", request)
        assert sender.requests == []

    async def test_an_error_is_read_and_a_success_is_not(self):
        """Its body is validated as it came: JSON is read once."""
        body = {"error": "NOT_FOUND", "message": "gone", "request_id": "q"}
        sender = Sent(404, body, {"X-Request-Id": "q", "x-request-id": "q", "set-cookie": "a=b"})
        refused = await TenantClient("http://host", "key", sender).get_reservation("r")
        assert (refused.status, refused.body, refused.error_message) == (404, body, "gone")
        assert (refused.request_id, "set-cookie" in refused.headers) == ("q", False)
        sender = Sent(200)
        committed = await TenantClient("http://host", "key", sender).commit_reservation("r", COMMIT)
        assert (committed.body, json.loads(committed.content)) == (None, COMMITTED)


class TestThePool:
    async def test_has_a_place_for_each_request_that_may_be_in_flight(self, anyio_backend):
        """That of aiohttp on asyncio, httpx's own on trio."""
        sender = pool("http://host", 7, 2.0)
        if anyio_backend == "asyncio":
            session = sender._opened()
            connector = session.connector
            assert connector.limit == 7
            assert connector._keepalive_timeout < SERVERS_KEEP_ALIVE
            await session.close()
        else:
            connections = sender.transport._pool
            assert connections._max_connections == 7
            assert connections._max_keepalive_connections == 7
            assert connections._keepalive_expiry < SERVERS_KEEP_ALIVE
        await sender.aclose()

    async def test_is_shared_by_the_clients_of_all_keys(self):
        """A thousand tenants do not have a thousand pools."""
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=COMMITTED))
        keys = {f"tenant-{number}": f"key-{number}" for number in range(1000)}
        async with open_cycles("http://host", api_key=keys, transport=transport) as ledger:
            for tenant in [*keys, *keys]:
                await ledger.commit("r", COMMIT, tenant=tenant)
            clients = ledger._connections._clients
            assert len(clients) == 1000
            assert len({id(client._sender) for client in clients.values()}) == 1

    async def test_keys_that_are_new_each_time_fill_no_memory(self, monkeypatch):
        monkeypatch.setattr(connections, "_KEYS", 10)
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=COMMITTED))
        numbers = itertools.count()

        async def rotated(tenant):
            return f"key-{next(numbers)}-of-{tenant}"

        async with open_cycles("http://host", api_key=rotated, transport=transport) as ledger:
            for _ in range(100):
                await ledger.commit("r", COMMIT, tenant="acme")
            assert len(ledger._connections._clients) <= 10

    @pytest.mark.parametrize("written", ["{}", " http://{} ", "http://{}/"])
    async def test_goes_through_the_proxy_of_the_environment(self, monkeypatch, written):
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        requests = []
        async with raw_server(http_answer(COMMITTED), requests) as proxy:
            monkeypatch.setenv("http_proxy", written.format(proxy.removeprefix("http://")))
            async with open_cycles("http://cycles.invalid", api_key="k") as ledger:
                await ledger.commit("r", COMMIT)
            assert requests[0].startswith(b"POST http://cycles.invalid/v1/reservations/r/commit ")

    @pytest.mark.parametrize(
        "named", ["socks5://u:secret@host:1", "garbage://x", "http://[::1", "http://"]
    )
    async def test_a_proxy_that_is_none_is_told_where_the_ledger_is_opened(
        self, monkeypatch, named
    ):
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", named)
        with pytest.raises(ValueError, match="set http_proxy like http://") as caught:
            async with open_cycles("http://cycles.invalid", api_key="k"):
                pass
        assert "secret" not in str(caught.value)

    async def test_goes_past_a_proxy_where_the_environment_says_so(self, monkeypatch):
        requests = []
        async with raw_server(http_answer(COMMITTED), requests) as address:
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            async with open_cycles(address, api_key="k") as ledger:
                await ledger.commit("r", COMMIT)
            assert requests[0].startswith(b"POST /v1/reservations/r/commit ")


class TestSockets:
    """What a real socket can do to an answer is the network's fault, on either transport."""

    @pytest.mark.parametrize(
        "answer",
        [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n", http_answer(COMMITTED, length=999)],
        ids=["nothing", "no HTTP", "half a head", "half a body"],
    )
    async def test_an_answer_that_is_cut_or_none_is_no_answer(self, answer):
        async with raw_server(answer) as address, open_cycles(address, api_key="k") as ledger:
            with pytest.raises(LedgerUnreachable) as caught:
                await ledger.commit("r", COMMIT)
        assert caught.value.status == -1
        assert address in str(caught.value)

    async def test_a_reason_in_whatever_encoding_is_no_defect(self):
        head = b"HTTP/1.1 400 Ung\xfcltig\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(head) as address, open_cycles(address, api_key="k") as ledger:
            with pytest.raises(ComptrollerError):
                await ledger.commit("r", COMMIT)

    async def test_nobody_listening_is_no_answer(self):
        async with open_cycles("http://127.0.0.1:1", api_key="k") as ledger:
            with pytest.raises(
                LedgerUnreachable, match=r"http://127\.0\.0\.1:1: reserve: no answer"
            ):
                await ledger.reserve(reserve(1))

    @pytest.mark.parametrize(
        "where", [b"http://127.0.0.1:1/", b"javascript:x", b"http://xn--/", b"http://[::1", b"\xff"]
    )
    async def test_a_redirect_is_not_followed(self, where):
        """It would hand the key to whoever is named."""
        head = b"HTTP/1.1 307 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % where
        async with raw_server(head) as address, open_cycles(address, api_key="k") as ledger:
            with pytest.raises(LedgerMisbehaved, match="307"):
                await ledger.commit("r", COMMIT)

    async def test_a_cookie_is_neither_kept_nor_sent(self):
        """It would be sent with the key of whichever tenant comes next."""
        sets = b"HTTP/1.1 200 OK\r\nConnection: close\r\nSet-Cookie: who=acme; Path=/\r\n"
        answer = http_answer(COMMITTED).replace(b"HTTP/1.1 200 OK\r\n", sets)
        requests = []
        async with raw_server(answer, requests) as address:
            named = address.replace("127.0.0.1", "localhost")  # aiohttp keeps none of a number's
            keys = {"acme": "key-of-acme", "globex": "key-of-globex"}
            async with open_cycles(named, api_key=keys, outbox=False) as ledger:
                for tenant in ("acme", "acme", "globex"):
                    await ledger.commit("r", COMMIT, tenant=tenant)
        assert len(requests) == 3
        assert not [head for head in requests if b"cookie" in head.lower()]

    async def test_a_thousand_calls_at_once_are_all_answered(self, anyio_backend):
        """None is lost to the pool: they wait outside it, and its time-out cannot strike."""
        granted = set()

        async def ask(ledger, number):
            granted.add((await ledger.reserve(reserve(number))).reservation_id)

        count = 1000 if anyio_backend == "asyncio" else 200
        with server() as address:
            async with (
                open_cycles(address, api_key="key", request_timeout=120) as ledger,
                anyio.create_task_group() as tasks,
            ):
                for number in range(count):
                    tasks.start_soon(ask, ledger, number)
        assert len(granted) == count

    async def test_leaving_while_requests_hang_closes_every_socket(self):
        """By cancellation, at once; whatever is left over would be a warning, hence a failure."""
        before = open_sockets()
        under_way = Arrivals(10)
        with anyio.fail_after(10):
            async with raw_server(None, under_way) as address:
                with anyio.CancelScope() as scope:
                    async with (
                        open_cycles(address, api_key="key", request_timeout=60) as ledger,
                        anyio.create_task_group() as tasks,
                    ):
                        for number in range(40):
                            tasks.start_soon(ledger.reserve, reserve(number))
                        await under_way.enough.wait()
                        assert open_sockets() >= before + 20
                        scope.cancel()
        gc.collect()
        assert scope.cancelled_caught
        assert open_sockets() == before


FORKS = """
import os, anyio
from runcycles import CommitRequest
from comptroller.errors import ComptrollerError
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.money import tokens

async def main():
    async with open_cycles("http://127.0.0.1:1", api_key="k") as ledger:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            await ledger.commit("r", CommitRequest(idempotency_key="c", actual=tokens(1)))
        except ComptrollerError as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)

anyio.run(main)
"""


def test_use_in_a_forked_child_is_one_clear_error():
    code, out, err = subprocesses.run(["-W", "ignore::DeprecationWarning", "-c", FORKS])
    assert code == 0, err
    (line,) = out.splitlines()
    assert line.startswith("ComptrollerError the ledger http://127.0.0.1:1 was opened in process ")
    assert "open one in each process" in line
    assert str(os.getpid()) not in line
