"""Through real sockets: what is no HTTP, heads without end, bodies that do not come."""

import json
import re
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from comptroller import usd
from comptroller.ledger.embedded.memory import open_memory
from comptroller.server import asgi, serve_ledger, uvicorn_server
from comptroller.server.uvicorn_server import MAX_HEAD_BYTES, MAX_PIPELINED, CoalescingTransport
from support.http_requests import ADMIN, KEYS, reserving
from support.live_server import listening

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

HEAD = b"GET /v1/balances?tenant=acme HTTP/1.1\r\nHost: x\r\nX-Cycles-API-Key: key-of-acme\r\n"
CHUNKED = (
    b"POST /v1/decide HTTP/1.1\r\nHost: x\r\nX-Cycles-API-Key: key-of-acme\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


async def said_to(url, *pieces):
    """What comes back until the server closes, or has answered once."""
    host, port = url.removeprefix("http://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as line:
        for piece in pieces:
            try:
                await line.send(piece)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                break
        answer = b""
        while not re.search(rb"\r\n\r\n.+", answer, re.DOTALL):
            answer += await line.receive()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), json.loads(body)


@on_asyncio
@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told_so_in_the_protocols_form(request_):
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        status, head, body = await said_to(url, request_)
    assert (status, body["error"]) == (400, "INVALID_REQUEST")
    assert set(body) == {"error", "message", "request_id", "trace_id"}
    assert f"x-request-id: {body['request_id']}".encode() in head
    assert b"connection: close" in head


@on_asyncio
@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"X-Long: ", *[b"x" * 4_096] * (MAX_HEAD_BYTES // 4_096 + 2)],
        [b"GET /", *[b"x" * 4_096] * (MAX_HEAD_BYTES // 4_096 + 2)],
        [HEAD, *[b"X-Many: " + b"x" * 4_000 + b"\r\n"] * (MAX_HEAD_BYTES // 4_000 + 2)],
        [
            CHUNKED + b"0\r\n",
            *[b"X-Many: " + b"x" * 4_000 + b"\r\n"] * (MAX_HEAD_BYTES // 4_000 + 2),
        ],
        [CHUNKED + b"1\r\n{\r\n0\r\nX-Long: ", *[b"x" * 4_096] * (MAX_HEAD_BYTES // 4_096 + 2)],
        [CHUNKED + b"1;", *[b"x" * 4_096] * (MAX_HEAD_BYTES // 4_096 + 2)],
    ],
)
async def test_a_head_without_end_is_refused(pieces):
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        status, _, body = await said_to(url, *pieces)
        assert (status, body["error"]) == (400, "INVALID_REQUEST")
        assert str(MAX_HEAD_BYTES) in body["message"]
        assert (await said_to(url, HEAD, b"\r\n"))[0] == 200


@on_asyncio
@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        HEAD.replace(b"GET", b"POST") + b"Content-Length: 10\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
    ],
)
async def test_who_falls_silent_does_not_keep_the_connection(monkeypatch, piece):
    monkeypatch.setattr(uvicorn_server, "_MAX_REQUEST_SECONDS", 0.05)
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        host, port = url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as line:
            if piece:
                await line.send(piece)
            answer = b""
            with anyio.fail_after(30), suppress(anyio.EndOfStream):
                while True:
                    answer += await line.receive()
    assert b"the request did not end within 0.05 seconds" in answer


async def heard(url, *pieces):
    """All that comes back until the server hangs up."""
    host, port = url.removeprefix("http://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as line:
        answer = b""
        with anyio.fail_after(30), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            for piece in pieces:
                await line.send(piece)
            while True:
                answer += await line.receive()
    return answer


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@on_asyncio
@pytest.mark.parametrize("after", [b"", b"\r\n", b"\r", b"\r\n\r\n\r\n"])
async def test_line_ends_after_a_request_are_silence(monkeypatch, after):
    """What begins no request does not put off the end of an idle connection."""
    monkeypatch.setattr(uvicorn_server, "_KEEP_ALIVE", 0.05)
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        host, port = url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as line:
            await line.send(HEALTH)
            assert b"200 OK" in await line.receive()
            await line.send(after or b"\n")
            with anyio.fail_after(30), pytest.raises(anyio.EndOfStream):
                await line.receive()


@on_asyncio
async def test_who_does_not_read_its_answers_loses_the_connection(monkeypatch):
    """Whether they wait in the server for room on the way, or for the connection's end."""
    monkeypatch.setattr(uvicorn_server, "_MAX_REQUEST_SECONDS", 0.05)
    gone = anyio.Event()

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 2**24, "more_body": True})
        await send({"type": "http.response.body", "body": b"x"})
        await receive()
        gone.set()

    async with listening(application) as url:
        host, port = url.removeprefix("http://").split(":")
        for request in (HEALTH, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
            gone = anyio.Event()
            async with await anyio.connect_tcp(host, int(port)) as line:
                await line.send(request)
                with anyio.fail_after(30):
                    await gone.wait()


@on_asyncio
@pytest.mark.virtual_time
@pytest.mark.parametrize("read", [True, False])
async def test_what_is_closed_is_gone_whoever_reads(read):
    """A closed transport sends what it holds first: not for ever."""
    line = Recorded()
    joined = CoalescingTransport(line)
    joined.close()
    if read:
        joined.was_read()
    await anyio.sleep(3_600)
    assert line.done == ["closed"] + ["aborted"] * (not read)


@on_asyncio
@pytest.mark.parametrize(
    "broken", [b"no http\r\n\r\n", b"GET /hea", CHUNKED + b"no length\r\n", CHUNKED + b"1"]
)
async def test_a_refusal_does_not_answer_the_request_before(monkeypatch, broken):
    """It comes after that one's answer, however late: else a commit would be read as refused."""
    monkeypatch.setattr(uvicorn_server, "_MAX_REQUEST_SECONDS", 0.05)
    refused, given_up = anyio.Event(), uvicorn_server.Protocol._refuse

    def refuse(self, why):
        given_up(self, why)
        refused.set()

    monkeypatch.setattr(uvicorn_server.Protocol, "_refuse", refuse)

    async def application(scope, receive, send):
        await refused.wait()
        await send(
            {"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]}
        )
        await send({"type": "http.response.body"})

    async with listening(application) as url:
        answer = await heard(url, HEALTH + broken)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"201", b"400"]


@on_asyncio
@pytest.mark.parametrize("name", [b"X-Cycles-API-Key", b"X-Admin-API-Key"])
async def test_a_trailer_is_no_header(name):
    """RFC 9110, 6.5.1: else it is a way round a proxy that sets or strips headers."""
    key = {b"X-Cycles-API-Key": b"key-of-acme", b"X-Admin-API-Key": ADMIN.encode()}[name]
    path = {b"X-Cycles-API-Key": b"/v1/balances?tenant=acme"}.get(name, b"/v1/admin/budgets")
    for pieces in (
        [b"0\r\n", b"%b: %b\r\n\r\n" % (name, key)],
        [b"0\r\n%b: %b\r\n\r\n" % (name, key)],
    ):
        for head, status in ((b"", 401), (b"%b: %b\r\n" % (name, key), 200)):
            async with (
                open_memory() as ledger,
                listening(serve_ledger(ledger, KEYS, admin_key=ADMIN)) as url,
            ):
                asked = b"GET %b HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n"
                asked %= (path, head)
                assert (await said_to(url, asked + pieces[0], *pieces[1:]))[0] == status


H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)


@on_asyncio
@pytest.mark.parametrize("upgrade", [H2C, b"Upgrade: websocket\r\nConnection: Upgrade\r\n"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_an_upgrade_is_ignored(upgrade, framing, piece):
    """RFC 9110, 7.8: the request is answered as if its header were not there, and so is the next,
    however they come in pieces.
    """
    body = json.dumps(reserving()).encode()
    if framing == "chunked":
        sent = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        sent = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    asked = HEAD.replace(b"GET /v1/balances?tenant=acme", b"POST /v1/reservations")
    asked += upgrade + sent
    both = asked + asked.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        await ledger.set_budget("tenant:acme", usd("1"))
        answer = await heard(url, *(both[at : at + piece] for at in range(0, len(both), piece)))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200"]


@on_asyncio
async def test_one_connection_carries_many_requests_however_long_their_bodies():
    """What was counted of one head does not count for the next, nor does a body."""
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        body = b" " * MAX_HEAD_BYTES
        whole = (
            b"POST /v1/decide HTTP/1.1\r\nHost: x\r\nX-Cycles-API-Key: key-of-acme\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        ) + body
        host, port = url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as line:
            for _ in range(3):
                await line.send(whole)
                answer = b""
                while not answer.endswith(b"}"):
                    answer += await line.receive()
                assert b"the body: Invalid JSON" in answer


@on_asyncio
@pytest.mark.parametrize(("count", "all_of_them"), [(64, True), (20 * MAX_PIPELINED, False)])
async def test_requests_that_nobody_waits_for_do_not_fill_the_memory(count, all_of_them):
    async with open_memory() as ledger, listening(serve_ledger(ledger, KEYS)) as url:
        host, port = url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as line:
            asked = (HEAD + b"\r\n") * (count - 1) + HEAD + b"Connection: close\r\n\r\n"
            answered = 0
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await line.send(asked)
                while True:
                    answered += (await line.receive()).count(b"HTTP/1.1 200")
        assert (answered == count) is all_of_them
        assert (await said_to(url, HEAD, b"\r\n"))[0] == 200


@pytest.mark.virtual_time
async def test_a_body_that_does_not_come_is_not_waited_for_for_ever():
    pieces = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if not pieces:
            await anyio.sleep_forever()
        return pieces.pop()

    said = []

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/decide", "query_string": b""}
    headers = [(b"x-cycles-api-key", b"key-of-acme")]
    async with open_memory() as ledger:
        began = anyio.current_time()
        await serve_ledger(ledger, KEYS)({**scope, "headers": headers}, receive, send)
    assert anyio.current_time() - began == pytest.approx(asgi.BODY_TIMEOUT, abs=1)
    assert said[0]["status"] == 400
    assert "did not end" in json.loads(said[1]["body"])["message"]


class Recorded:
    """A transport that remembers what was done with it."""

    def __init__(self):
        self.done, self.closed = [], False

    def write(self, data):
        self.done.append(data)

    def close(self):
        self.done.append("closed")
        self.closed = True

    def abort(self):
        self.done.append("aborted")

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name):
        return f"the {name}"


@on_asyncio
async def test_what_is_written_in_one_turn_is_sent_together():
    line = Recorded()
    joined = CoalescingTransport(line)
    joined.write(b"head ")
    joined.write(b"body")
    assert line.done == []
    await anyio.lowlevel.checkpoint()
    joined.write(b"next")
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    assert line.done == [b"head body", b"next"]
    assert joined.get_extra_info("peername") == "the peername"


@on_asyncio
async def test_what_was_written_is_sent_before_the_connection_is_closed():
    line = Recorded()
    joined = CoalescingTransport(line)
    joined.write(b"the last words")
    joined.close()
    await anyio.lowlevel.checkpoint()
    assert line.done == [b"the last words", "closed"]
    assert joined.is_closing()


@on_asyncio
async def test_nothing_is_sent_where_nobody_is_left():
    line = Recorded()
    joined = CoalescingTransport(line)
    joined.write(b"too late")
    line.closed = True
    await anyio.lowlevel.checkpoint()
    assert line.done == []
