"""Malformed, oversized, mis-typed and mis-authenticated requests, made up by the thousand.

Whatever comes: never a 5xx, never another tenant's data, never a changed balance. A few hundred
requests are made of each kind; `COMPTROLLER_HOSTILE=10000` makes so many in all.
"""

import json
import os
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.sqlite import open_sqlite
from comptroller.server import serve_ledger
from support.http_requests import ADMIN, KEYS, amount, event, reserving
from support.manual_clock import Clock
from support.requests import amount as amount_of
from support.requests import asking

pytestmark = [pytest.mark.anyio, pytest.mark.alike]

KINDS = 6
EXAMPLES = max(1, int(os.environ.get("COMPTROLLER_HOSTILE", "600")) // KINDS)
MOST_BYTES = 4_096
SECRET = "globex-does-this"
"""Stands in all that is the other tenant's."""


def hostile(**strategies):
    """Requests of one kind, the same ones each time."""
    return lambda test: settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(**strategies)(test))


class Body(httpx.AsyncByteStream):
    """A body in one piece. httpx's own is a generator, which trio minds being left unread."""

    def __init__(self, content):
        self.pieces = [content]

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.pieces:
            raise StopAsyncIteration
        return self.pieces.pop()


class Besieged:
    """A server with two tenants' budgets and reservations, and what must stay as it is."""

    def __init__(self, ledger, client, mine, others):
        self.ledger, self.client, self.mine, self.others = ledger, client, mine, others

    async def state(self):
        budgets = await self.ledger.budgets()
        pages = [await self.ledger.reservations(tenant=name, limit=200) for name in KEYS.values()]
        return [one.model_dump_json() for one in (*budgets, *pages)]

    async def ask(self, method, path, *, content=None, headers=None, key="key-of-acme"):
        before = await self.state()
        given = {"X-Cycles-API-Key": key} if key is not None else {}
        request = self.client.build_request(method, path, headers=given | (headers or {}))
        request.stream = Body(content or b"")
        answer = await self.client.send(request)
        told = (method, path, content, answer.status_code, answer.text)
        assert answer.status_code < 500, told
        assert SECRET not in answer.text, told
        assert await self.state() == before, told
        if answer.is_error and method != "HEAD":
            body = answer.json()
            assert set(body) - {"details"} == {"error", "message", "request_id", "trace_id"}, told
        return answer


@pytest.fixture
async def besieged(anyio_backend_name, tmp_path):
    """On asyncio over a file, on trio over memory."""
    clock = Clock()
    opened = (
        open_sqlite(tmp_path / "ledger.db", now=clock)
        if anyio_backend_name == "asyncio"
        else open_memory(now=clock)
    )
    async with opened as ledger:
        ids = {}
        for tenant in KEYS.values():
            await ledger.set_budget(f"tenant:{tenant}", amount_of(1_000))
            for number in range(2):
                note = {"note": f"{tenant}-does-this"}
                asked = asking(f"key-{number}", 10, tenant=tenant, metadata=note)
                made = await ledger.reserve(asked, tenant=tenant)
                ids.setdefault(tenant, []).append(made.reservation_id)
        application = serve_ledger(ledger, KEYS, admin_key=ADMIN, most_bytes=MOST_BYTES)
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://cycles") as client:
            yield Besieged(ledger, client, ids["acme"], ids["globex"])


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            "acme",
            "globex",
            "USD_MICROCENTS",
            "2e3",
            "-1",
            "",
            2**63,
            -1,
            0,
            1e999,
            "k" * 300,
            "\x00",
            "\ud800",
            "ACME",
            "tenant:acme",
            "../",
            "acme/agent:x",
        ]
    )
)
NONSENSE = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
SOUND = {
    "/v1/decide": reserving(),
    "/v1/reservations": reserving(ttl_ms=1_000, grace_period_ms=0, overage_policy="REJECT"),
    "/v1/events": event(client_time_ms=1),
    "/v1/reservations/{id}/commit": {"idempotency_key": "k", "actual": amount(1)},
    "/v1/reservations/{id}/release": {"idempotency_key": "k", "reason": "r"},
    "/v1/reservations/{id}/extend": {"idempotency_key": "k", "extend_by_ms": 1},
}
METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])


def places(value, at=()):
    """Where a member or an element of `value` stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*at, name)
            yield from places(inner, (*at, name))


def replaced(value, place, other):
    """`value` with `other` at `place`."""
    name, *rest = place
    return {**value, name: replaced(value[name], rest, other) if rest else other}


def unlike(original, other):
    """Whether no schema takes `other` where it takes `original`."""
    if type(original) is int and type(other) is int:
        return not 0 <= other < 2**63
    return other is not None and type(other) is not type(original)


@st.composite
def mistyped(draw):
    """A sound request with one member of another type or range, or with one too many."""
    path, body = draw(st.sampled_from(sorted(SOUND.items())))
    place = draw(st.sampled_from(list(places(body))))
    original = body
    for name in place:
        original = original[name]
    if draw(st.booleans()):
        other = draw(NONSENSE.filter(lambda value: unlike(original, value)))
        return path, replaced(body, place, other)
    surplus = (*place[:-1], draw(st.text(min_size=1, max_size=9)) + "?")
    return path, replaced(body, surplus, 1)


def said(body):
    """A body as JSON; what JSON does not carry is written all the same."""
    return json.dumps(body).encode("utf-8", "surrogatepass")


@hostile(request=mistyped(), mine=st.booleans())
async def test_what_is_mistyped_is_refused(besieged, request, mine):
    path, body = request
    which = besieged.mine if mine else besieged.others
    answer = await besieged.ask("POST", path.replace("{id}", which[0]), content=said(body))
    assert answer.status_code == 400


@hostile(
    path=st.sampled_from(sorted(SOUND)),
    body=st.binary(max_size=64) | NONSENSE.map(said),
    cut=st.integers(0, 300),
    whole=st.booleans(),
)
async def test_what_is_malformed_is_refused(besieged, path, body, cut, whole):
    """Any bytes, any JSON, and the beginning of a sound request."""
    sound = said(SOUND[path])
    content = body if whole else sound[: cut % len(sound)]
    answer = await besieged.ask("POST", path.replace("{id}", besieged.mine[0]), content=content)
    assert answer.status_code == 400


@hostile(
    path=st.sampled_from(sorted(SOUND)),
    member=st.sampled_from(["metadata", "idempotency_key", "surprise", ""]),
    size=st.integers(MOST_BYTES, 20 * MOST_BYTES),
    depth=st.integers(0, 300),
)
async def test_what_is_oversized_is_refused(besieged, path, member, size, depth):
    """As padding, as a text, as a nest of lists."""
    filler = json.loads("[" * depth + "]" * depth) if depth else "x" * size
    content = said(SOUND[path] | ({member: filler, "y": "y" * size} if member else {}))
    answer = await besieged.ask(
        "POST",
        path.replace("{id}", besieged.mine[0]),
        content=content + b" " * (0 if member else size),
    )
    assert answer.status_code == 400


KEYS_OF_NOBODY = (
    st.none()
    | st.binary(max_size=40).filter(
        lambda key: not {b"\r", b"\n", b"\0"} & {bytes([c]) for c in key}
    )
    | st.sampled_from([*KEYS, ADMIN]).flatmap(
        lambda key: st.sampled_from(
            [key[:-1], key.upper(), f"{key} x", f"Bearer {key}", key * 100]
        ).map(str.encode)
    )
    | st.sampled_from([b"acme", b"ck_", b"ck_1_2", b"ck__", ADMIN.encode()])
)


@hostile(
    request=st.sampled_from(sorted(SOUND.items())),
    key=KEYS_OF_NOBODY,
    admin=KEYS_OF_NOBODY.filter(lambda key: key != ADMIN.encode()),
    reading=st.booleans(),
)
async def test_who_has_no_key_is_told_nothing(besieged, request, key, admin, reading):
    path, body = request
    path = path.replace("{id}", besieged.others[0])
    method = "GET" if reading else "POST"
    if reading:
        path = f"/v1/reservations/{besieged.others[0]}"
    headers = {"X-Admin-API-Key": admin} if admin is not None else {}
    answer = await besieged.ask(method, path, content=said(body), headers=headers, key=key)
    assert answer.status_code == 401


@hostile(
    request=st.sampled_from(sorted(SOUND.items())),
    tenant=st.sampled_from(["globex", "GLOBEX", "Globex"]),
    query=st.dictionaries(
        st.sampled_from(["status", "agent", "idempotency_key", "sort_by", "include", "limit"]),
        st.sampled_from(["ACTIVE", "key-0", "metadata", "status", "5", "globex"]),
    ),
    reading=st.sampled_from(["", "one", "list", "balances"]),
)
async def test_what_is_another_tenants_is_not_told(besieged, request, tenant, query, reading):
    path, body = request
    if reading:
        where = {
            "one": f"reservations/{besieged.others[0]}",
            "list": f"reservations?{urlencode(query | {'tenant': tenant})}",
            "balances": f"balances?{urlencode(query | {'tenant': tenant})}",
        }
        answer = await besieged.ask("GET", f"/v1/{where[reading]}")
    else:
        if "subject" in body:
            body = body | {"subject": {"tenant": tenant}}
        path = path.replace("{id}", besieged.others[0])
        answer = await besieged.ask("POST", path, content=said(body))
    assert answer.status_code == 403


@hostile(
    method=METHODS,
    path=st.sampled_from(["reservations", "balances", "decide", "admin/budgets", "evidence/x"])
    | st.text(max_size=20).map(lambda text: quote(text, safe="/")),
    below=st.just("") | st.text(max_size=40).map(lambda text: "/" + quote(text, safe="/")),
    query=st.dictionaries(
        st.sampled_from(
            ["tenant", "status", "limit", "cursor", "agent", "idempotency_key", "sort_by",
             "sort_dir", "from", "to", "expires_from", "finalized_to", "include", "?"]
        ),
        st.text(max_size=12) | st.integers().map(str) | st.sampled_from(["9" * 5_000, "metadata"]),
    ),
)  # fmt: skip
async def test_wherever_it_goes(besieged, method, path, below, query):
    asked = urlencode(query, errors="replace")
    await besieged.ask(method, f"/v1/{path}{below}?{asked}", content=b"{}")


async def test_a_sound_request_does_change_it(besieged):
    """So the checks above can fail."""
    with pytest.raises(AssertionError):
        await besieged.ask("POST", "/v1/reservations", content=said(reserving()))
    with pytest.raises(AssertionError):
        await besieged.ask("GET", "/v1/reservations?include=metadata", key="key-of-globex")
