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

from comptroller import (
    Completed,
    PriceBook,
    Receipt,
    RunCancelled,
    StartedRun,
    Supervisor,
    TokenCount,
    console,
    open_ledger,
    open_supervisor,
)
from comptroller.cli.exits import DONE, FAILED
from comptroller.cli.watching import watch
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.money import formatted
from comptroller.runtime.hub import Handle

from .audit import Audit, audit
from .cast import BUDGETS, LARGE, POLICY, SMALL, Part, Stage, parts
from .scripted import Tally

_MOST_TURNS = 60  # beyond what the budgets allow: they are to end the runs
_FOLDED = 72  # columns of an answer, in a table of 100
_SAMPLE = 1000  # tokens whose price is shown times a thousand


def show(model: str | None) -> int:
    """Play it; the exit code says whether the ledger agrees with the models and tools."""
    if model is not None:
        _must_be_possible(model)
    return anyio.run(play, Stage(Tally(), model))


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


async def play(stage: Stage) -> int:
    """The whole demonstration."""
    with tempfile.TemporaryDirectory(prefix="comptroller-") as directory:
        path = Path(directory) / "ledger.db"
        _say(*_prologue(stage, path))
        began = time.perf_counter()
        async with open_ledger(path) as ledger:
            played = await _performed(parts(stage), ledger, stage)
        took = time.perf_counter() - began
        receipts = [one.receipt for one in played]
        _say("", "How the runs ended")
        endings = console.table("run", "status", "answer, or why there is none")
        endings.columns[-1].max_width = _FOLDED
        for one in played:
            endings.add_row(one.receipt.run_id, one.status, console.plain(one.said))
        console.write(endings)
        _say("Receipts: what every call reserved and was charged")
        console.write(console.receipts_table(receipts))
        async with open_ledger(path) as ledger:  # opened anew: what stands in the file
            _say("Balances, read from the file")
            console.write(console.budgets_table(await ledger.budgets()))
            cut_off = [one.receipt.tenant for one in played if one.status == "cancelled"]
            # what a real model's answer cost that was cut off, nobody but the ledger counts
            leave_out = cut_off if stage.real else []
            found = await audit(ledger, receipts, stage.tally, leave_out)
    agreed = _reconciled(found, took, leave_out)
    failed = [one for one in played if one.status == "failed"]
    _say(*(f"{one.receipt.run_id} failed: {one.said}" for one in failed))
    return FAILED if failed or not agreed else DONE


# -- what it is


def _prologue(stage: Stage, path: Path) -> list[str]:
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


@attrs.frozen
class Played:
    """A run that is over. `said`: its answer, or why there is none."""

    receipt: Receipt
    status: str
    said: str


async def _performed(cast: Sequence[Part], ledger: EmbeddedLedger, stage: Stage) -> list[Played]:
    """All parts together, shown while they run."""
    for tenant, budgets in BUDGETS.items():
        for budget in budgets:
            await ledger.set_budget(f"tenant:{tenant}", budget)
    runs: dict[str, Handle] = {}
    async with anyio.create_task_group() as helpers:
        helpers.start_soon(watch, runs)
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:
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


def _start(part: Part, supervisor: Supervisor, runs: dict[str, Handle], stage: Stage) -> StartedRun:
    started = supervisor.start(
        part.agent, part.given, tenant=part.tenant, run_id=part.id, **_options(part, stage)
    )
    runs[part.id] = started
    return started


async def _played(run: StartedRun) -> Played:
    outcome = await run.outcome()
    said = outcome.result.final_output if isinstance(outcome, Completed) else outcome.error
    return Played(run.receipt, run.status, str(said))


async def _read_a_while(
    part: Part, supervisor: Supervisor, runs: dict[str, Handle], stage: Stage
) -> Played:
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
    return Played(run.receipt, run.status, said)


def _options(part: Part, stage: Stage) -> dict[str, Any]:
    return {
        "run_config": RunConfig(tracing_disabled=True),
        "hooks": stage.hooks(part.tenant),
        "max_turns": _MOST_TURNS,
    }


# -- what came of them


def _reconciled(found: Audit, took: float, left_out: Sequence[str]) -> bool:
    _say("Three accounts of the same work")
    amounts = ("models and tools counted", "receipts charged", "ledger spent")
    made = console.table("tenant", *amounts, "", right=amounts)
    for line in found.lines:
        figures = (line.counted, line.charged, line.spent)
        verdict = "agree" if line.agrees else "DIFFER"
        made.add_row(line.tenant, *(formatted(line.unit, n) for n in figures), verdict)
    console.write(made)
    _say(
        *(f"{tenant} is left out: no model reports a cut-off answer." for tenant in left_out),
        f"{found.worked} calls done by models and tools, {found.reserved} reservations charged,"
        f" {found.active} still active; {found.tasks} tasks left; {took:.1f} s.",
        "The ledger agrees with the models and tools, to the microcent."
        if found.holds
        else "THE LEDGER DOES NOT AGREE with the models and tools.",
    )
    return found.holds


def _say(*lines: str) -> None:
    for line in lines:
        console.write(line)
