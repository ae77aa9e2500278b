"""`comptroller run`: one agent, governed, from its import to the receipt.

Ctrl-C and SIGTERM cancel the run, which settles; then it is shown like any other. A second one ends
the process at once: what was not settled is left to `comptroller recover`.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import anyio
import attrs
from agents import Agent, StreamEvent
from anyio.abc import TaskStatus
from openai.types.responses import ResponseTextDeltaEvent
from pydantic_core import to_jsonable_python

from comptroller import GovernedRun, Limits, Outcome, Policy, Receipt, RunCancelled, governed_run
from comptroller.cli import exit_codes, output, parsing
from comptroller.cli.budgets import require_embedded
from comptroller.cli.progress import watch
from comptroller.core.scopes import parse_scope
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger
from comptroller.runtime.outcomes import Completed, outcome_of
from comptroller.runtime.registry import RunHandle

_LINGERS = 1.0
"""Seconds that a tool's thread may keep an interrupted command from its exit."""


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
    wide: bool = False
    debug: bool = False


@attrs.define
class RunResult:
    """How a run went. `result`: the SDK's; `signal`: the one that cancelled it."""

    receipt: Receipt | None = None
    result: Any = None
    error: Exception | None = None
    signal: int | None = None


def carry_out(order: Order) -> int:
    """Run it and show what came of it: the exit code."""
    try:
        return anyio.run(_to_its_end, imported_agent(order.agent), order)
    except Exception:
        if order.debug:
            traceback.print_exc()
        raise


async def _to_its_end(agent: Agent[Any], order: Order) -> int:
    """Shown before the loop ends, which waits for threads: a tool in one cannot be cancelled."""
    ending = await _under_its_budget(agent, order)
    if order.debug and ending.error is not None:
        traceback.print_exception(ending.error)
    code = show(ending, as_json=order.as_json, streamed=order.stream, wide=order.wide)
    if ending.signal is not None:
        last = threading.Timer(_LINGERS, os._exit, [code])
        last.daemon = True
        last.start()
    return code


async def _under_its_budget(agent: Agent[Any], order: Order) -> RunResult:
    policy = Policy(llm_estimate=parsing.optional_amount("--llm-estimate", order.llm_estimate))
    limits = Limits(
        llm_calls=order.max_llm_calls,
        tool_calls=order.max_tool_calls,
        spend=parsing.optional_amount("--max-spend", order.max_spend),
        seconds=order.max_seconds,
    )
    settings = parsing.ledger(order.ledger, order.api_key_env, create=True)
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
    wanted = parsing.optional_amount("--budget", order.budget)
    if wanted is None:
        return
    operator, path = require_embedded(ledger), parse_scope(f"tenant:{order.tenant}")
    for known in await operator.budgets():
        if known.scope_path == path and known.remaining.unit == wanted.unit:
            if known.allocated != wanted:
                raise ValueError(
                    f"--budget {order.budget}: {output.balance_line(known, ledger.name)}; change"
                    f" that with: comptroller budget set {path} {order.budget}"
                    f" --ledger {ledger.name}"
                )
            return
    await operator.set_budget(path, wanted)


async def _carried(scope: governed_run, order: Order) -> RunResult:
    """Carry out the whole run; what it raised is part of the answer."""
    ending, runs = RunResult(), dict[str, RunHandle]()
    async with anyio.create_task_group() as helpers:
        if not (order.stream or order.as_json):
            helpers.start_soon(functools.partial(watch, runs, stderr=True))
        try:
            async with scope as run:
                runs[order.tenant] = run
                await helpers.start(_cancel_on_signal, run, ending)
                ending.result = await _answer(run, order)
        except Exception as error:  # noqa: BLE001 - whatever it is, the receipt is printed first
            ending.error = error
        ending.receipt = run.receipt
        helpers.cancel_scope.cancel()
    return ending


async def _cancel_on_signal(
    run: GovernedRun,
    ending: RunResult,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Cancel the run with the first signal, end the process with the second."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            ending.signal = number
            run.cancel(f"interrupted by {signal.Signals(number).name}")
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Not by a KeyboardInterrupt, which would wait for what the loop still has to do."""
    del frame
    output.open_console(stderr=True).show_cursor()  # the live view has hidden it
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


async def _answer(run: GovernedRun, order: Order) -> Any:
    options = {} if order.max_turns is None else {"max_turns": order.max_turns}
    if not order.stream:
        return await run(order.given, **options)
    stream, began = run.stream(order.given, **options), False
    try:
        async for event in stream:
            if (piece := _text_of(event)) and not order.as_json:
                output.write_text(piece, end="")
                began = True
    finally:
        if began:
            output.write_text("")
    return stream


def _text_of(event: StreamEvent) -> str:
    """Return the piece of the answer that an event brings."""
    data = getattr(event, "data", None)
    return data.delta if isinstance(data, ResponseTextDeltaEvent) else ""


def imported_agent(text: str) -> Agent[Any]:
    """Return the agent that `module:name` means, imported from the current directory or installed.

    Raises:
        ValueError, TypeError: it names none; the text says what is there.
    """
    module_name, colon, name = text.partition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"{text!r} names no agent: write MODULE:AGENT, such as support:triage")
    module = _imported(module_name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {name!r}: {_agents_in(module)}")
        found = getattr(found, part)
    if not isinstance(found, Agent) and callable(found):
        found = _made(found, text)
    if not isinstance(found, Agent):
        raise TypeError(
            f"{text} is no agents.Agent ({type(found).__name__}), and no function that returns one:"
            f" {_agents_in(module)}"
        )
    return found


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if name.endswith(".py") or "/" in name:
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"{name!r} is a path: write the module's name, such as {module}:agent")
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{missing}."):
            raise ValueError(
                f"no module {name!r} in {here}, and none installed: cd to where it stands"
            ) from None
        raise ValueError(f"{name} cannot be imported: {_said(error)}{_DEBUG}") from error


_DEBUG = " (the traceback: --debug)"


def _made(make: Any, text: str) -> Any:
    try:
        return make()
    except Exception as error:
        raise ValueError(f"{text}() raised {_said(error)}{_DEBUG}") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _agents_in(module: ModuleType) -> str:
    names = [name for name, _ in inspect.getmembers(module, lambda value: isinstance(value, Agent))]
    if not names:
        return f"no agent stands in {module.__name__}; {_functions_in(module)}"
    return f"write {' or '.join(f'{module.__name__}:{name}' for name in names)}"


def _functions_in(module: ModuleType) -> str:
    """Return what of the module's own might make one."""
    names = [
        name
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not names:
        return "nor does a function"
    return f"it has: {', '.join(f'{name} (a function)' for name in names)}"


# -- what came of it


def show(ending: RunResult, *, as_json: bool, streamed: bool, wide: bool) -> int:
    """Print it: the exit code. `streamed`: the answer has been printed."""
    code, problem = _verdict(ending)
    if as_json:
        output.write_json(_plain(ending, problem))
    else:
        answer = getattr(ending.result, "final_output", None)
        if answer is not None and not streamed:
            output.write_text(_text(answer))
        if ending.receipt is not None and _tells(ending.receipt):
            output.write(output.receipts_table([ending.receipt]), wide=wide)
            for note in output.notes(ending.receipt, problem):
                output.write(note)
    if problem is not None:
        exit_codes.complain(problem)
    return code


def _tells(receipt: Receipt) -> bool:
    """Whether any call got an answer of the ledger: else the error says it all."""
    return any(call.outcome is not Outcome.FAILED for call in receipt.calls)


def _verdict(ending: RunResult) -> tuple[int, str | None]:
    """Return the exit code, and what is to be said of it."""
    error = ending.error
    if error is None:
        waiting = [item.name or "a tool" for item in getattr(ending.result, "interruptions", [])]
        if not waiting:
            return exit_codes.DONE, None
        return (
            exit_codes.FAILED,
            f"the run waits for the approval of {', '.join(waiting)}: none can be given here",
        )
    if isinstance(error, RunCancelled) and ending.signal is not None:
        return exit_codes.SIGNALLED + ending.signal, f"{error.reason}: cancelled, and settled"
    if isinstance(error, ComptrollerError):
        return exit_codes.code_of(error) or exit_codes.FAILED, str(error)
    return exit_codes.FAILED, f"the run failed: {type(error).__name__}: {error}"


def _plain(ending: RunResult, problem: str | None) -> dict[str, Any]:
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
        "receipt": ending.receipt and output.plain_receipt(ending.receipt),
    }


def _text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    return output.as_json(to_jsonable_python(answer, fallback=str))
