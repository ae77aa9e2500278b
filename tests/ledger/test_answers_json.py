"""An answer over HTTP is the model's own JSON, though it is written without making the model's."""

import json

import pytest

from comptroller.ledger.engine.lazy_responses import as_json
from support.requests import amount, asking, committing, event, extending, releasing

pytestmark = pytest.mark.anyio


async def test_what_is_written_is_what_the_model_says(embedded):
    await embedded.set_budget("tenant:acme", amount(1_000), overdraft_limit=10)
    await embedded.set_budget("tenant:acme/agent:a", amount(20))
    reserve = await embedded.reserve(asking("k", 10, agent="a"))
    other = await embedded.reserve(asking("k2", 10, agent="a"))
    one, two = reserve.reservation_id, other.reservation_id
    answers = [
        reserve,
        await embedded.extend(one, extending("x", 1_000)),
        await embedded.commit(one, committing("c", 50)),
        await embedded.release(two, releasing("r")),
        await embedded.record(event("e", 1)),
        await embedded.reserve(asking("dry", 1, dry_run=True)),
        await embedded.reservation(one),
        await embedded.balances(tenant="acme"),
    ]
    for answer in answers:
        written = json.loads(as_json(answer))
        assert written == json.loads(answer.model_dump_json(exclude_none=True))
        assert json.loads(as_json(answer)) == written  # looked at, and written again
