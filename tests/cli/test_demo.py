"""`comptroller demo`: what it shows is what happened, and its reconciliation can fail."""

import re
from collections import Counter
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest

from comptroller import Outcome, TokenCount, open_ledger
from comptroller.demo import main, models, scenario
from comptroller.demo.reconcile import audit
from support.cli import call, ended, environment, start
from support.fake_openai import provider
from support.requests import asking, committing, event

WIDEST = 100  # columns


@pytest.fixture
def at_once(monkeypatch):
    """Nobody takes time."""
    for module, name in ((models, "_THINKS"), (models, "_SPEAKS"), (scenario, "_WORKS")):
        monkeypatch.setattr(module, name, 0)


@attrs.define
class Performed:
    """All the parts, over."""

    ledger: Any
    played: Any
    tally: models.WorkLog

    async def audit(self, leave_out=()):
        receipts = [one.receipt for one in self.played]
        return await audit(self.ledger, receipts, self.tally, leave_out)


def after_the_runs(check, *, reads=None):
    """The test `check(performed)`, in a loop of its own, where every task counts.

    `reads`: the pieces of the story after which its reader leaves, in place of what is written.
    """

    async def perform():
        stage = scenario.DemoSetup(models.WorkLog())
        parts = scenario.parts(stage)
        if reads is not None:
            parts = [attrs.evolve(one, closes_after=one.closes_after and reads) for one in parts]
        async with open_ledger("memory:") as ledger:
            played = await main._performed(parts, ledger, stage)
            await check(Performed(ledger, played, stage.tally))

    @pytest.mark.usefixtures("at_once")
    def test():
        anyio.run(perform)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


# -- as its reader sees it


def test_in_a_pipe_it_is_plain_text_of_100_columns_and_ends_with_0():
    code, out, err = ended(start("demo"))
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= WIDEST
    assert "scripted, no key and no network" in out
    assert len(re.findall(r"^acme-1 .* committed +\$0\.00", out, re.MULTILINE)) == 4
    assert "initech: $0.022338 requested for gpt-4.1 by agent Crawler" in out
    assert len(re.findall(r"\bagree\b", out)) == 5
    assert "DIFFER" not in out
    assert "27 reservations charged, 0 still active; 0 tasks left" in out
    assert out.endswith("The ledger agrees with the models and tools, to the microcent.\n")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("who", "lies"),
    [
        ("model", lambda tally, tenant, name, tokens: None),
        ("tool", lambda tally, tenant, name, cost: None),
        (
            "model",
            lambda tally, tenant, name, tokens: tally.work.append(
                models.Work(tenant, name, TokenCount(tokens.input, output=tokens.output + 1))
            ),
        ),
    ],
    ids=["no model counts", "no tool counts", "one token too many"],
)
def test_a_count_that_differs_is_shown_and_ends_with_1(monkeypatch, who, lies):
    monkeypatch.setattr(models.WorkLog, who, lies)
    result = call("demo")
    assert result.exit_code == 1
    assert "DIFFER" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("THE LEDGER DOES NOT AGREE")


@pytest.mark.usefixtures("at_once")
def test_a_run_that_fails_ends_with_1(monkeypatch):
    """Even where the ledger agrees about everything."""

    async def broken(*_):
        raise ConnectionResetError("no such model")

    monkeypatch.setattr(models.Scripted, "_answer", broken)
    result = call("demo")
    assert result.exit_code == 1
    assert "acme-1 failed: no such model" in result.stdout


# -- what happened


@after_the_runs
async def test_the_parts_end_as_they_are_meant_to(performed):
    played = performed.played
    assert {one.receipt.run_id: one.status for one in played} == {
        "acme-1": "completed",
        "acme-2": "completed",
        "globex-1": "completed",
        "globex-2": "completed",
        "initech": "denied",
        "hooli": "cancelled",
    }
    outcomes = {one.receipt.run_id: one.receipt.outcomes for one in played}
    assert outcomes["initech"][Outcome.DENIED] == 1
    assert outcomes["hooli"] == {Outcome.ABANDONED: 1}
    assert outcomes["acme-1"] == {Outcome.COMMITTED: 4, Outcome.UNRESERVED: 2}
    [story] = [one.receipt for one in played if one.receipt.run_id == "hooli"]
    assert 0 < story.calls[0].charged.amount < story.calls[0].reserved.amount
    nested = {call.agent for one in played for call in one.receipt.calls if call.parent}
    assert nested == {"Translator"}


@after_the_runs
async def test_the_tally_agrees_with_the_ledger_call_by_call(performed):
    found = await performed.audit()
    assert found.holds
    assert {(line.tenant, line.unit.value) for line in found.lines} == {
        ("acme", "USD_MICROCENTS"),
        ("globex", "USD_MICROCENTS"),
        ("globex", "RISK_POINTS"),
        ("initech", "USD_MICROCENTS"),
        ("hooli", "USD_MICROCENTS"),
    }
    assert all(line.counted > 0 for line in found.lines)
    by_tenant = Counter(one.tenant for one in performed.tally.work)
    reserved = Counter(
        one.receipt.tenant
        for one in performed.played
        for line in one.receipt.calls
        if line.reservation_id is not None
    )
    assert by_tenant == reserved


@partial(after_the_runs, reads=10_000)
async def test_a_story_that_is_read_to_its_end_agrees_too(performed):
    """Nobody leaves in the middle: its model reports its usage, which is charged."""
    [story] = [one for one in performed.played if one.receipt.run_id == "hooli"]
    assert (story.status, story.said) == ("completed", "was read to its end")
    assert story.receipt.calls[0].actual_source == "usage"
    assert (await performed.audit()).holds


@after_the_runs
async def test_a_reservation_that_is_left_is_found(performed):
    await performed.ledger.reserve(asking("left", 1))
    found = await performed.audit()
    assert (found.active, found.holds) == (1, False)
    assert all(line.agrees for line in found.lines)


@after_the_runs
async def test_spend_that_no_receipt_has_is_found(performed):
    await performed.ledger.record(event("unknown", 1))
    found = await performed.audit()
    assert [line.tenant for line in found.lines if not line.agrees] == ["acme"]
    assert not found.holds


@after_the_runs
async def test_a_reservation_that_no_model_used_is_found(performed):
    """Even one of nothing: calls are counted as well as money."""
    granted = await performed.ledger.reserve(asking("spare", 1))
    await performed.ledger.commit(granted.reservation_id, committing("spare", 0))
    found = await performed.audit()
    assert found.reserved == found.worked + 1
    assert not found.holds
    assert all(line.agrees for line in found.lines)


@after_the_runs
async def test_a_task_that_is_left_is_found(performed):
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever, name="left")
        await anyio.lowlevel.checkpoint()
        found = await performed.audit()
        group.cancel_scope.cancel()
    assert (found.tasks, found.holds) == (1, False)


@after_the_runs
async def test_what_nobody_counted_is_left_out(performed):
    performed.tally.work = [one for one in performed.tally.work if one.tenant != "hooli"]
    assert not (await performed.audit()).holds
    found = await performed.audit(leave_out=["hooli"])
    assert found.holds
    assert "hooli" not in {line.tenant for line in found.lines}


# -- a real model


def test_a_real_model_is_asked_and_its_own_usage_reconciled():
    """Behind OpenAI's protocol on loopback: its usage has cached tokens, and no count of ours."""
    with provider() as address:
        env = environment(OPENAI_API_KEY="key", OPENAI_BASE_URL=address)
        code, out, err = ended(start("demo", "--model", "gpt-4.1-mini", env=env))
    assert code == 0
    [warning] = err.splitlines()  # on loopback it might be a local model of that name
    assert warning.startswith("openai:gpt-4.1-mini is served at a private address")
    assert "Every agent uses the real gpt-4.1-mini: OpenAI bills your account for it." in out
    assert "scripted" not in out
    assert "openai:gpt-4.1-mini" in out
    assert "hooli is left out" in out
    assert "The ledger agrees" in out


@pytest.mark.usefixtures("at_once")
def test_a_key_alone_asks_no_real_model():
    result = call("demo", env={"OPENAI_API_KEY": "key"})
    assert result.exit_code == 0
    assert "scripted, no key" in result.stdout
