"""What Prometheus is told: every metric of the documentation, no tenant's name, in little time."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from comptroller.errors import BudgetExceeded, ComptrollerError
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.sqlite import open_sqlite
from comptroller.server.metrics import Metrics
from support.manual_clock import Clock
from support.requests import amount, asking, event

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
OWED = {"owed": 2, "rejected": 1, "corrupt": 0}


def values(text):
    """(name, labels) -> value."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def busy(ledger):
    await ledger.set_budget("tenant:acme", amount(300_000_000), overdraft_limit=50)
    await ledger.set_budget("tenant:acme/agent:a", amount(300_000_000))
    await ledger.record(event("e", 250_000_000, agent="a"))
    await ledger.reserve(asking("held", 10_000_000, agent="a"))
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(asking("denied", 300_000_000, agent="a"))


async def test_a_ledger_in_dollars_by_unit(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        await busy(ledger)
        metrics = Metrics(ledger, outbox=lambda: OWED, now_ms=Clock())
        text = await metrics.text()
    found = values(text)
    assert found["comptroller_ledger_up",] == 1
    assert found["comptroller_charged_total", "usd"] == 2.5
    assert found["comptroller_calls_total", "usd"] == 1
    assert found["comptroller_reserved", "usd"] == 0.1
    assert found["comptroller_reservations_active", "usd"] == 1
    assert found["comptroller_denials_total", "BUDGET_EXCEEDED", "usd"] == 1
    assert found["comptroller_leases_expired_total", "usd"] == 0
    assert found["comptroller_budgets", "usd"] == 2
    assert found["comptroller_budgets_above_80_percent", "usd"] == 2
    assert found["comptroller_debt", "usd"] == found["comptroller_budgets_in_debt", "usd"] == 0
    assert found["comptroller_outbox_charges", "owed"] == 2
    assert found["comptroller_file_bytes", "ledger"] > 0
    assert found["comptroller_alert_oldest_undelivered_seconds",] == 0
    assert b"acme" not in text


async def test_tenants_are_named_where_it_is_wanted(tmp_path):
    async with open_memory() as ledger:
        await busy(ledger)
        found = values(await Metrics(ledger, now_ms=Clock(), by_tenant=True).text())
    assert found["comptroller_tenant_spent", "acme", "usd"] == 2.5
    assert found["comptroller_tenant_allocated", "acme", "usd"] == 3


async def test_how_long_requests_wait_for_the_writer(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        metrics = Metrics(ledger, now_ms=Clock())
        ledger.on_wait = metrics.waited
        await busy(ledger)
        found = values(await metrics.text())
    assert found["comptroller_queue_seconds_count",] == 5
    assert 0 < found["comptroller_queue_seconds_sum",] < 5


async def test_a_ledger_that_cannot_be_read_leaves_the_servers_own_counts(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        metrics = Metrics(ledger, outbox=broken, now_ms=Clock())
        metrics.answered("GET", "/healthz", 200, 0.1)

        async def unreadable(**_):
            raise ComptrollerError("gone")

        ledger.statistics = unreadable
        found = values(await metrics.text())
    assert found["comptroller_ledger_up",] == 0
    assert found["comptroller_requests_total", "/healthz", "200", "GET"] == 1
    assert not [name for name, *_ in found if name.startswith("comptroller_budgets")]


def broken():
    raise PermissionError("not yours")


async def test_who_asks_more_often_than_once_a_second_is_told_the_same(tmp_path):
    """It needs no key: whoever floods it does not have the file read as often."""
    looks, clock = [], Clock()
    async with open_memory() as ledger:
        metrics = Metrics(ledger, outbox=lambda: looks.append(1) or OWED, now_ms=clock)
        for _ in range(5):
            await metrics.text()
        assert len(looks) == 1
        clock.advance(1_000)
        await metrics.text()
        assert len(looks) == 2


async def test_every_metric_is_documented_and_every_documented_one_exists(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        await busy(ledger)
        metrics = Metrics(ledger, outbox=lambda: OWED, now_ms=Clock(), by_tenant=True)
        metrics.answered("GET", "/healthz", 200, 0.1)
        text = (await metrics.text()).decode()
    told = {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("comptroller_")
        and not sample.name.endswith(("_created", "_bucket", "_count", "_sum"))
    } | {
        family.name for family in text_string_to_metric_families(text) if family.type == "histogram"
    }
    table = PAGE.read_text().partition("## What Prometheus is told")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(comptroller_\w+)", table, re.MULTILINE))
    assert documented == told
    used = set(re.findall(r"comptroller_\w+", PAGE.read_text()))
    assert {name.removesuffix("_bucket") for name in used} <= told
