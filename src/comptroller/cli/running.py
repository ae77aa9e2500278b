"""`comptroller run`: one agent, governed, from its import to the receipt.

Whose fault an error is decides the exit code: what the agent raises is a run that failed (1); what
the ledger and the caller are to blame for is told as `exits` says.
"""

import functools
import signal
import traceback
from typing import Any

import anyio
import attrs
from agents import Agent, StreamEvent
from anyio.abc import TaskStatus
from openai.types.responses import ResponseTextDeltaEvent
from pydantic_core import to_jsonable_python

from comptroller import GovernedRun, Limits, Policy, Receipt, RunCancelled, console, governed_run
from comptroller.decide.scopes import parse_scope
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger
from comptroller.runtime.hub import Handle
from comptroller.runtime.outcomes import Completed, outcome_of

from . import exits, reading
from .operating import own
from .watching import watch


@attrs.frozen(kw_only=True)
class Order:
    """What was asked for, as it was written."""

    agent: str
    given: str
    tenant: str
    ledger: str | None = None
    api_key_env: str | None = None
    budget: str | None = None
    workspace: str | None = None
    app: str | None = None
    workflow: str | None = None
    llm_estimate: str | None = None
    max_seconds: float | None = None
    max_llm_calls: int | None = None
    max_tool_calls: int | None = None
    max_spend: str | None = None
    max_turns: int | None = None
    stream: bool = False
    as_json: bool = False
    debug: bool = False


@attrs.define
class Ending:
    """How it went. `result`: the SDK's; `signal`: the one that cancelled it."""

    receipt: Receipt | None = None
    result: Any = None
    error: Exception | None = None
    signal: int | None = None


def carry_out(order: Order) -> int:
    """Run it and show what came of it: the exit code."""
    try:
        agent = reading.agent(order.agent)
        ending = anyio.run(_under_its_budget, agent, order)
    except Exception:
        if order.debug:
            traceback.print_exc()
        raise
    if order.debug and ending.error is not None:
        traceback.print_exception(ending.error)
    return _shown(order, ending)


# -- the run


async def _under_its_budget(agent: Agent[Any], order: Order) -> Ending:
    policy = Policy(llm_estimate=reading.optional_amount("--llm-estimate", order.llm_estimate))
    limits = Limits(
        llm_calls=order.max_llm_calls,
        tool_calls=order.max_tool_calls,
        spend=reading.optional_amount("--max-spend", order.max_spend),
        seconds=order.max_seconds,
    )
    settings = reading.ledger(order.ledger, order.api_key_env, create=True)
    async with settings.open() as ledger:
        scope = governed_run(
            agent,
            order.tenant,
            ledger=ledger,
            policy=policy,
            limits=limits,
            workspace=order.workspace or settings.workspace,
            app=order.app or settings.app,
            workflow=order.workflow or settings.workflow,
        )
        await _give_budget(ledger, order)
        return await _carried(scope, order)


async def _give_budget(ledger: Ledger, order: Order) -> None:
    """`--budget`: set where there is none. One that somebody set is not changed in passing."""
    wanted = reading.optional_amount("--budget", order.budget)
    if wanted is None:
        return
    operator, path = own(ledger), parse_scope(f"tenant:{order.tenant}")
    for known in await operator.budgets():
        if known.scope_path == path and known.remaining.unit == wanted.unit:
            if known.allocated != wanted:
                raise ValueError(
                    f"--budget {order.budget}: {console.balance_line(known)}; change that with:"
                    f" comptroller budget set {path} {order.budget} --ledger {ledger.name}"
                )
            return
    await operator.set_budget(path, wanted)


async def _carried(scope: governed_run, order: Order) -> Ending:
    """The whole run; what it raised is part of the answer."""
    ending, runs = Ending(), dict[str, Handle]()
    async with anyio.create_task_group() as helpers:
        if not (order.stream or order.as_json):
            helpers.start_soon(functools.partial(watch, runs, stderr=True))
        try:
            async with scope as run:
                runs[run.id] = run
                await helpers.start(_cancel_on_signal, run, ending)
                ending.result = await _answer(run, order)
        except Exception as error:  # noqa: BLE001 - whatever it is, the receipt is printed first
            ending.error = error
        ending.receipt = run.receipt
        helpers.cancel_scope.cancel()
    return ending


async def _cancel_on_signal(
    run: GovernedRun, ending: Ending, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """The first signal cancels the run; a second one does what it does without us."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            ending.signal = number
            run.cancel(f"interrupted by {signal.Signals(number).name}")
            break


async def _answer(run: GovernedRun, order: Order) -> Any:
    options = {} if order.max_turns is None else {"max_turns": order.max_turns}
    if not order.stream:
        return await run(order.given, **options)
    stream, began = run.stream(order.given, **options), False
    try:
        async for event in stream:
            if (piece := _text_of(event)) and not order.as_json:
                console.write_text(piece, end="")
                began = True
    finally:
        if began:
            console.write_text("")
    return stream


def _text_of(event: StreamEvent) -> str:
    """The piece of the answer that an event brings."""
    data = getattr(event, "data", None)
    return data.delta if isinstance(data, ResponseTextDeltaEvent) else ""


# -- what came of it


def _shown(order: Order, ending: Ending) -> int:
    code, problem = _verdict(ending)
    if order.as_json:
        console.write_json(_plain(ending, problem))
    else:
        output = getattr(ending.result, "final_output", None)
        if output is not None and not order.stream:
            console.write_text(_text(output))
        if ending.receipt is not None and ending.receipt.calls:
            console.write(console.receipts_table([ending.receipt]))
            for note in console.notes(ending.receipt):
                if problem is None or problem not in note:
                    console.write(note)
    if problem is not None:
        exits.complain(problem)
    return code


def _verdict(ending: Ending) -> tuple[int, str | None]:
    """The exit code, and what is to be said of it."""
    error = ending.error
    if error is None:
        waiting = [item.name or "a tool" for item in getattr(ending.result, "interruptions", [])]
        if not waiting:
            return exits.DONE, None
        return (
            exits.FAILED,
            f"the run waits for the approval of {', '.join(waiting)}: none can be given here",
        )
    if isinstance(error, RunCancelled) and ending.signal is not None:
        return exits.SIGNALLED + ending.signal, f"{error.reason}: cancelled, and settled"
    if isinstance(error, ComptrollerError):
        return exits.code_of(error) or exits.FAILED, str(error)
    return exits.FAILED, f"the run failed: {type(error).__name__}: {error}"


def _plain(ending: Ending, problem: str | None) -> dict[str, Any]:
    """For machines."""
    error = ending.error
    outcome = Completed(None) if error is None else outcome_of(error)
    return {
        "status": type(outcome).__name__.lower(),
        "output": to_jsonable_python(getattr(ending.result, "final_output", None), fallback=str),
        "error": problem
        and {
            "type": type(error).__name__ if error else None,
            "message": problem,
            "reason_code": getattr(error, "reason_code", None),
        },
        "receipt": ending.receipt and ending.receipt.to_dict(),
    }


def _text(output: Any) -> str:
    return output if isinstance(output, str) else console.as_json(
        to_jsonable_python(output, fallback=str))  # fmt: skip
