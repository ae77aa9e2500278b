"""A ledger in memory over HTTP, and requests to it as bodies."""

from contextlib import asynccontextmanager

import httpx

from comptroller.server import serve_ledger

KEYS = {"key-of-acme": "acme", "key-of-globex": "globex"}
ADMIN = "the-operators-own-key"
ACTION = {"kind": "llm.completion", "name": "openai:gpt-4o-mini"}


@asynccontextmanager
async def served(ledger, key="key-of-acme", **settings):
    """An HTTP client of `ledger`, as acme unless told otherwise."""
    application = serve_ledger(ledger, KEYS, admin_key=ADMIN, **settings)
    headers = {"X-Cycles-API-Key": key} if key else {}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application), base_url="http://cycles", headers=headers
    ) as client:
        yield client


def amount(count, unit="USD_MICROCENTS"):
    return {"unit": unit, "amount": count}


def reserving(key="k", count=100, *, unit="USD_MICROCENTS", tenant="acme", **more):
    levels = {level: more.pop(level) for level in ("workspace", "app", "agent") if level in more}
    return {
        "idempotency_key": key,
        "subject": {"tenant": tenant, **levels},
        "action": ACTION,
        "estimate": amount(count, unit),
        **more,
    }


def event(key="e", count=100, *, tenant="acme", **more):
    asked = reserving(key, count, tenant=tenant, **more)
    asked["actual"] = asked.pop("estimate")
    return asked


async def reserved(client, *args, **more):
    """The id of a new reservation."""
    answer = await client.post("/v1/reservations", json=reserving(*args, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()["reservation_id"]


async def settle(client, reservation, verb, **body):
    return await client.post(f"/v1/reservations/{reservation}/{verb}", json=body)


def told(answer):
    """Status and code of an answer."""
    return answer.status_code, answer.json().get("error")
