"""How the public API is meant to be typed: checked by mypy, never run.

A line that must be refused carries the error that it must have: `warn_unused_ignores` makes mypy
fail when the refusal goes.
"""

from datetime import timedelta
from decimal import Decimal
from typing import assert_type

from agents import Agent, Model
from runcycles import Amount, Caps, CommitOveragePolicy, Unit

from comptroller import BudgetTerms, open_ledger
from comptroller.ledger.interface import EmbeddedLedger, Ledger
from comptroller.ledger.models import BalanceMismatch, LogEntry, Usage
from comptroller.money import formatted, risk_points, show, tokens, usd
from comptroller.policy import Limits, Policy, ToolEstimateConfig, ToolEstimateMap
from comptroller.testing import (
    BlockedModel,
    CountingModel,
    FailingModel,
    Faults,
    FaultyLedger,
    FundedLedger,
    PlannedLedger,
    RecordingLedger,
    Report,
    ScriptedLedger,
    StalledLedger,
    StreamingModel,
    Trial,
    cancel_everywhere,
    deny_at,
    deny_everywhere,
    lose_answer,
    lost_answer,
    rate_limited,
)

assert_type(usd("0.05"), Amount)
assert_type(usd(5), Amount)
assert_type(usd(Decimal("0.05")), Amount)
usd(0.05)  # type: ignore[arg-type]
assert_type(tokens(5), Amount)
assert_type(risk_points(5), Amount)
tokens("5")  # type: ignore[arg-type]
assert_type(show(usd(1)), str)
assert_type(formatted(Unit.TOKENS, 5), str)


def cost_of_mail(arguments: dict[str, str], result: str) -> Amount:
    return tokens(len(arguments["text"]) + len(result))


class Strategy:
    def estimate(self, call: object, prices: object, /) -> Amount | None:
        return None


policy = Policy(
    llm_estimate=usd("0.05"),
    tools={"search": 5, "mail": ToolEstimateConfig(1, actual=cost_of_mail), "pay": usd(1)},
    on_tool_denied="tell_model",
    overage_policy="REJECT",
    teardown_timeout=2,
)
assert_type(policy.tools, ToolEstimateMap)
assert_type(policy.overage_policy, CommitOveragePolicy)
assert_type(policy.settle_timeout, float)
Policy(llm_estimate=Strategy(), tools=ToolEstimateMap({"search": 5}, 2, Unit.TOKENS))
Policy(llm_estimate=0.05)  # type: ignore[arg-type]
Policy(on_abandoned="keep")  # type: ignore[arg-type]
Policy(usd(1))  # type: ignore[call-arg]
policy.fail_open = True  # type: ignore[misc]

limits = Limits(llm_calls=20, tool_calls={"search": 3}, spend=usd(2), seconds=timedelta(minutes=5))
assert_type(limits.seconds, float | None)
assert_type(limits.spend, Amount | None)
Limits(tool_calls=3, seconds=0.5)
Limits(tokens=1.5)  # type: ignore[arg-type]


async def budgets_have_terms(ledger: EmbeddedLedger) -> None:
    await ledger.set_budget("tenant:acme", usd(1), per="day", zone="Asia/Tokyo", alerts="80%")
    await ledger.set_budget("tenant:acme", usd(1), alerts=(50, "80%"), caps_below=20, caps=Caps())
    await ledger.set_budget("tenant:acme", usd(1), per="week")  # type: ignore[arg-type]
    await ledger.set_budget("tenant:acme", usd(1), caps_below=0.2)  # type: ignore[arg-type]
    assert_type(await ledger.usage(by="tenant,agent"), list[Usage])
    assert_type(await ledger.events(kinds=["alert"]), list[LogEntry])
    assert_type((await ledger.verify()).differences, tuple[BalanceMismatch, ...])


def heard(entry: LogEntry) -> None:
    assert_type(entry.amount, int)


open_ledger("ledger.db", default_budget=BudgetTerms(usd(5), per="month"), on_alert=heard)
open_ledger("ledger.db", default_budget=5)  # type: ignore[call-overload]


def a_ledger_may_be_wrapped(ledger: Ledger, embedded: EmbeddedLedger) -> list[Ledger]:
    script = {"commit": [lost_answer(), None, rate_limited(2_000)]}
    return [
        embedded,
        RecordingLedger(ledger, remote=True),
        StalledLedger(embedded, {"reserve"}),
        ScriptedLedger(StalledLedger(ledger, "extend"), script),
        FaultyLedger(ledger, Faults(seed=7, rate=0.1, kinds=["reset"])),
        PlannedLedger(FundedLedger(), deny_at(2), lose_answer(1, verb="release")),
    ]


def a_program_is_swept() -> None:
    async def program(trial: Trial) -> None:
        async with trial.governed(Agent("Support"), "acme", limits=Limits(llm_calls=3)) as run:
            await run("go")

    assert_type(cancel_everywhere(program, how="task", again=2, backend="asyncio"), Report)
    assert_type(deny_everywhere(program, backend="trio"), Report)
    cancel_everywhere(program, how="kill")  # type: ignore[arg-type]


def models_for_tests_are_models() -> list[Model]:
    return [
        CountingModel("first", "second", tokens=(10, 5)),
        BlockedModel(tokens=None),
        FailingModel(ConnectionError, times=3),
        StreamingModel("a", "b", pause=0.5, cut_after=1),
    ]
