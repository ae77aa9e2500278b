"""The demonstration itself: run the parts together, show what happened, ask the ledger."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
from agents import RunConfig
from openai.types.responses import ResponseTextDeltaEvent
from runcycles import Balance

from comptroller import (
    Completed,
    PriceBook,
    Receipt,
    RunCancelled,
    StartedRun,
    Supervisor,
    TokenCount,
    open_ledger,
    open_supervisor,
)
from comptroller.cli import output
from comptroller.cli.budgets import plain
from comptroller.cli.exit_codes import DONE, FAILED
from comptroller.cli.output import plain_receipt
from comptroller.cli.progress import watch
from comptroller.cli.tables import Table
from comptroller.demo.models import WorkLog
from comptroller.demo.reconcile import Audit, audit
from comptroller.demo.scenario import BUDGETS, LARGE, POLICY, SMALL, DemoRun, DemoSetup, parts
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.money import formatted
from comptroller.runtime.registry import RunHandle

_MAX_TURNS = 60  # beyond what the budgets allow: they are to end the runs
_WIDEST = 100  # columns
_SAMPLE = 1000  # tokens whose price is shown times a thousand


def show(model: str | None, *, as_json: bool = False, wide: bool = False) -> int:
    """Play it; the exit code says whether the ledger agrees with the models and tools."""
    if model is not None:
        _must_be_possible(model)
    stage = DemoSetup(WorkLog(), model)
    return anyio.run(told, stage) if as_json else anyio.run(play, stage, wide)


def _must_be_possible(model: str) -> None:
    if not os.environ.get("OPENAI_API_KEY"):
        raise ValueError(
            f"--model {model} needs a key: set it with: export OPENAI_API_KEY=... (without --model"
            " the models are scripted)"
        )
    if PriceBook().price(model, TokenCount(input=1, output=1)) is None:
        raise ValueError(
            f"--model {model}: its price is not known, and money is compared here: name one such as"
            f" {SMALL}"
        )


@attrs.frozen
class RunSummary:
    """A run that is over. `said`: its answer, or why there is none."""

    receipt: Receipt
    status: str
    said: str


@attrs.frozen
class Show:
    """All of it, over. `left_out`: tenants whose work no model has counted."""

    played: list[RunSummary]
    budgets: list[Balance]
    audit: Audit
    took: float
    left_out: list[str]

    @property
    def code(self) -> int:
        """The exit code."""
        failed = any(one.status == "failed" for one in self.played)
        return DONE if self.audit.holds and not failed else FAILED


async def _shown(stage: DemoSetup, path: Path, *, watched: bool) -> Show:
    """Everything, and what stands in the file afterwards."""
    began = time.perf_counter()
    async with open_ledger(path) as ledger:
        played = await _performed(parts(stage), ledger, stage, watched=watched)
    took = time.perf_counter() - began
    async with open_ledger(path) as ledger:  # opened anew: what stands in the file
        cut_off = [one.receipt.tenant for one in played if one.status == "cancelled"]
        # what a real model's answer cost that was cut off, nobody but the ledger counts
        left_out = cut_off if stage.real else []
        receipts = [one.receipt for one in played]
        found = await audit(ledger, receipts, stage.tally, left_out)
        return Show(played, await ledger.budgets(), found, took, left_out)


async def told(stage: DemoSetup) -> int:
    """Play the whole demonstration, for machines."""
    with tempfile.TemporaryDirectory(prefix="comptroller-") as directory:
        over = await _shown(stage, Path(directory) / "ledger.db", watched=False)
    output.write_json(
        {
            "agrees": over.audit.holds,
            "runs": [
                {"status": one.status, "said": one.said, "receipt": plain_receipt(one.receipt)}
                for one in over.played
            ],
            "budgets": [plain(budget) for budget in over.budgets],
            "accounts": [line.plain() for line in over.audit.lines],
            "left_out": over.left_out,
            "seconds": round(over.took, 3),
        }
    )
    return over.code


async def play(stage: DemoSetup, wide: bool = False) -> int:
    """Play the whole demonstration."""
    with tempfile.TemporaryDirectory(prefix="comptroller-") as directory:
        path = Path(directory) / "ledger.db"
        _say(*_prologue(stage, path))
        over = await _shown(stage, path, watched=True)
    _say("", "How the runs ended")
    said = "answer, or why there is none"
    endings = Table("run", "status", said, prose=("status", said))
    for one in over.played:
        endings.add_row(one.receipt.run_id, one.status, output.plain(one.said))
    output.write(endings, most=_WIDEST)
    _say("Receipts: what every call reserved and was charged")
    output.write(output.receipts_table(one.receipt for one in over.played), wide=wide, most=_WIDEST)
    _say("Balances, read from the file")
    output.write(output.budgets_table(over.budgets), wide=wide, most=_WIDEST)
    _reconcile(over)
    failed = [one for one in over.played if one.status == "failed"]
    _say(*(f"{one.receipt.run_id} failed: {one.said}" for one in failed))
    return over.code


# -- what it is


def _prologue(stage: DemoSetup, path: Path) -> list[str]:
    if stage.real:
        who = [f"Every agent uses the real {stage.real}: OpenAI bills your account for it."]
    else:
        who = [
            "The models are scripted, no key and no network is used: they say what is written for",
            "them, and count a token for every four characters that they read or write.",
            "Prices, money, reservations and ledger are real.",
        ]
    prices = [f"  {_prices(name)}" for name in ([stage.real] if stage.real else [LARGE, SMALL])]
    return [
        "Six runs of four tenants at once, each under its tenant's budget.",
        *who,
        "",
        "Prices per million tokens:",
        *prices,
        f"Ledger: {path} (SQLite, removed at the end)",
        "",
    ]


def _prices(model: str) -> str:
    given, made = TokenCount(input=_SAMPLE), TokenCount(output=_SAMPLE)
    return f"{model}: {_per_million(model, given)} in, {_per_million(model, made)} out"


def _per_million(model: str, sample: TokenCount) -> str:
    cost = PriceBook().price(model, sample)
    return formatted(cost.unit, cost.amount * 10**6 // _SAMPLE) if cost else "unknown"


# -- the runs


async def _performed(
    cast: Sequence[DemoRun], ledger: EmbeddedLedger, stage: DemoSetup, *, watched: bool = True
) -> list[RunSummary]:
    """All parts together, shown while they run."""
    for tenant, budgets in BUDGETS.items():
        for budget in budgets:
            await ledger.set_budget(f"tenant:{tenant}", budget)
    runs: dict[str, RunHandle] = {}
    async with anyio.create_task_group() as helpers:
        if watched:
            helpers.start_soon(watch, runs)
        async with open_supervisor(ledger=ledger, policy=POLICY, handle_signals=True) as supervisor:
            started = [
                _start(part, supervisor, runs, stage) for part in cast if not part.closes_after
            ]
            left = [
                await _read_a_while(part, supervisor, runs, stage)
                for part in cast
                if part.closes_after
            ]
        helpers.cancel_scope.cancel()
    return [*[await _played(run) for run in started], *left]


def _start(
    part: DemoRun, supervisor: Supervisor, runs: dict[str, RunHandle], stage: DemoSetup
) -> StartedRun:
    started = supervisor.start(
        part.agent, part.given, tenant=part.tenant, run_id=part.id, **_options(part, stage)
    )
    runs[part.id] = started
    return started


async def _played(run: StartedRun) -> RunSummary:
    outcome = await run.outcome()
    said = outcome.result.final_output if isinstance(outcome, Completed) else outcome.error
    return RunSummary(run.receipt, run.status, str(said))


async def _read_a_while(
    part: DemoRun, supervisor: Supervisor, runs: dict[str, RunHandle], stage: DemoSetup
) -> RunSummary:
    """Read a streamed answer, and go in the middle of it."""
    pieces, said = 0, "was read to its end"
    try:
        async with supervisor.run(part.agent, part.tenant, run_id=part.id) as run:
            runs[part.id] = run
            async for event in run.stream(part.given, **_options(part, stage)):
                pieces += isinstance(getattr(event, "data", None), ResponseTextDeltaEvent)
                if pieces == part.closes_after:
                    run.cancel("the user closed the tab")
    except RunCancelled as cancelled:
        said = f"{cancelled}, {pieces} tokens into the answer"
    except Exception as error:  # noqa: BLE001 - as with the other runs, it is what became of it
        said = str(error)
    return RunSummary(run.receipt, run.status, said)


def _options(part: DemoRun, stage: DemoSetup) -> dict[str, Any]:
    return {
        "run_config": RunConfig(tracing_disabled=True),
        "hooks": stage.hooks(part.tenant),
        "max_turns": _MAX_TURNS,
    }


# -- what came of them


def _reconcile(over: Show) -> None:
    found = over.audit
    _say("Three accounts of the same work")
    amounts = ("models and tools counted", "receipts charged", "ledger spent")
    made = Table("tenant", *amounts, "verdict", amounts=amounts)
    for line in found.lines:
        figures = (line.counted, line.charged, line.spent)
        verdict = "agree" if line.agrees else "DIFFER"
        made.add_row(line.tenant, *(formatted(line.unit, n) for n in figures), verdict)
    output.write(made)
    _say(
        *(f"{tenant} is left out: no model reports a cut-off answer." for tenant in over.left_out),
        f"{found.worked} calls done by models and tools, {found.reserved} reservations charged,"
        f" {found.active} still active; {found.tasks} tasks left; {over.took:.1f} s.",
        "The ledger agrees with the models and tools, to the microcent."
        if found.holds
        else "THE LEDGER DOES NOT AGREE with the models and tools.",
    )


def _say(*lines: str) -> None:
    for line in lines:
        output.write(line)
