"""How the public scopes are meant to be typed: checked by mypy, never run."""

from collections.abc import Mapping
from typing import Any, assert_type

from agents import Agent
from agents.result import RunResult
from agents.stream_events import StreamEvent

from comptroller import (
    Cancelled,
    Completed,
    Denied,
    Failed,
    GovernedRun,
    GovernedStream,
    Limits,
    Policy,
    Receipt,
    StartedRun,
    Statistics,
    Supervisor,
    governed_run,
    open_ledger,
    open_supervisor,
    usd,
)
from comptroller.runtime.registry import RunHandle


async def one_run(agent: Agent[Any]) -> None:
    async with governed_run(agent, "acme", policy=Policy(), limits=Limits(seconds=60)) as run:
        assert_type(run, GovernedRun)
        assert_type(await run("hello", max_turns=3), RunResult)
        stream = run.stream("hello")
        assert_type(stream, GovernedStream)
        async for event in stream:
            assert_type(event, StreamEvent)
        assert_type(run.id, str)
        run.cancel("user closed the tab")
    assert_type(run.receipt, Receipt)
    governed_run(agent)  # type: ignore[call-arg]
    governed_run(agent, "acme", Policy())  # type: ignore[call-arg, arg-type]


async def many_runs(agent: Agent[Any]) -> None:
    async with open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", usd("10"))
        async with open_supervisor(ledger=ledger, policy=lambda tenant: Policy()) as supervisor:
            assert_type(supervisor, Supervisor)
            handle = supervisor.start(agent, "input", tenant="acme", max_turns=3)
            assert_type(handle, StartedRun)
            assert_type(await handle.outcome(), Completed | Denied | Failed | Cancelled)
            assert_type(await handle, RunResult)
            assert_type(supervisor.runs, Mapping[str, RunHandle])
            assert_type(supervisor.statistics(), Statistics)
            async with supervisor.run(agent, "acme") as run:
                assert_type(run, GovernedRun)
            supervisor.start(agent, "input")  # type: ignore[call-arg]
