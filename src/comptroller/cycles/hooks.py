"""`CyclesRunHooks`: what `runcycles-openai-agents` calls so, on Comptroller's runtime.

They are settings and a way in. Given to any `Runner.run`, they bring a governed run along, which
sees every call of it; their callbacks then have nothing to do. Where hooks of the user's own hand
on to them, or another runner calls them, the callbacks are all there is to see: they become
messages to the actors of a run that is begun at the first of them.

What `CyclesRunHooks.run_streamed` gives: the SDK's result, settled when its events end.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Generic, Literal

from agents import Agent, Runner, RunResult, RunResultStreaming, TContext
from runcycles import Amount, AsyncCyclesClient, CommitOveragePolicy, CyclesConfig, Unit
from runcycles.retry import AsyncCommitRetryEngine

from comptroller.cycles.background_run import BackgroundRun
from comptroller.cycles.config import subject_of
from comptroller.cycles.errors import as_seen
from comptroller.cycles.ledger_pool import LedgerPool
from comptroller.cycles.retry_engine import RetryEngineOutbox, keeps
from comptroller.money import amount
from comptroller.openai_agents.context import current_run
from comptroller.openai_agents.hook_runs import HookRun, end_all, governing_run
from comptroller.openai_agents.hooks_only import CallbackGoverningHooks
from comptroller.openai_agents.runner import carried_stream, install
from comptroller.policy import Policy, ToolEstimate, ToolEstimateMap
from comptroller.runtime.run import Run


class CyclesRunResultStreaming:
    """`agents.RunResultStreaming`, whose events end when everything of the run is settled."""

    def __init__(self, result: RunResultStreaming, carriage: HookRun | None) -> None:
        self._result = result
        self._carried = [] if carriage is None else [carriage]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._result, name)

    def cancel(self, mode: Literal["immediate", "after_turn"] = "immediate") -> None:
        """Cancel the SDK's stream; what it leaves open is settled as given up."""
        self._result.cancel(mode=mode)

    async def stream_events(self) -> AsyncIterator[Any]:
        """Yield the SDK's events. Left before their end, the run is cancelled."""
        events: Any = self._result.stream_events()
        async with aclosing(events):
            try:
                async for event in events:
                    yield event
            except (asyncio.CancelledError, GeneratorExit) as left:
                self._result.cancel()  # the SDK's own generator would wait for the run's end
                await end_all(self._carried, "its stream was left", left)
                raise

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.stream_events()


class CyclesRunHooks(CallbackGoverningHooks[TContext], Generic[TContext]):
    """Reserves budget before every LLM call and tool call, and settles it afterwards.

    `await hooks.run(agent, input)`, or `Runner.run(agent, input, hooks=hooks)`. One object serves
    any number of runs, at once too.

    Args:
        client: an `AsyncCyclesClient`, or `as_client(ledger)`; its giver closes it.
        config: the server to connect to where no client is given; else the `CYCLES_*` environment.
        tenant, workspace, app, workflow: who spends; unset ones come from the config.
        agent, toolset: the same; a call's own agent and tool stand in their place.
        tool_estimates: what tools reserve: a `ToolEstimateMap`, or a mapping for one.
        default_tool_estimate: what a tool reserves that a mapping does not name, in risk points.
        llm_estimate, llm_unit: what an LLM call reserves. What it is charged is what it used.
        fail_open: let calls through when the server does not answer or answers 5xx. A denial, or
            any 4xx, always stops.
        ttl_ms: the lease of a reservation, in milliseconds (1 000 to 86 400 000).
        heartbeat_max_age_ms, heartbeat_max_extensions: how long, and how often, it is extended.
        commit_max_attempts: how often a charge is sent before the retry engine takes it over.
        overage_policy: what the server does when an actual exceeds its estimate.
        dry_run: evaluate, stop nothing, charge nothing.
        retry_engine: keeps the charges that the server has not accepted; None: one of the config's.
        prices: a price book, or aliases, as in `comptroller.Policy`; not in the package that this
            stands for, which charges estimates.

    Raises:
        ValueError, TypeError: a setting that makes no sense, or no server is named.
    """

    def __init__(  # noqa: PLR0917 - as the package whose interface this is
        self,
        client: AsyncCyclesClient | None = None,
        config: CyclesConfig | None = None,
        tenant: str | None = None,
        workspace: str | None = None,
        app: str | None = None,
        workflow: str | None = None,
        agent: str | None = None,
        toolset: str | None = None,
        tool_estimates: Mapping[str, ToolEstimate] | ToolEstimateMap | None = None,
        default_tool_estimate: int = 1,
        llm_estimate: int = 500_000,
        llm_unit: Unit = Unit.USD_MICROCENTS,
        fail_open: bool = False,
        ttl_ms: int = 60_000,
        heartbeat_max_age_ms: int = 600_000,
        heartbeat_max_extensions: int | None = None,
        commit_max_attempts: int = 2,
        overage_policy: CommitOveragePolicy | str = CommitOveragePolicy.ALLOW_IF_AVAILABLE,
        dry_run: bool = False,
        retry_engine: AsyncCommitRetryEngine | None = None,
        *,
        prices: Any = None,
    ) -> None:
        if isinstance(commit_max_attempts, bool) or commit_max_attempts < 1:
            raise ValueError(f"commit_max_attempts={commit_max_attempts!r}: the least is 1")
        self._lender = LedgerPool(client, config)
        self._subject = subject_of(
            self._lender.config,
            tenant=tenant,
            workspace=workspace,
            app=app,
            workflow=workflow,
            agent=agent,
            toolset=toolset,
        )
        self._policy = Policy(
            llm_estimate=_llm_estimate(llm_unit, llm_estimate),
            prices=prices,
            tools=_tools(tool_estimates, default_tool_estimate),
            fail_open=fail_open,
            ttl_ms=ttl_ms,
            heartbeat_max_age_ms=heartbeat_max_age_ms,
            heartbeat_max_extensions=heartbeat_max_extensions,
            overage_policy=CommitOveragePolicy(overage_policy),
            dry_run=dry_run,
        )
        self._outbox = _outbox(self._lender, retry_engine, commit_max_attempts)
        self._carried: dict[str, BackgroundRun] = {}
        super().__init__()
        install()

    # -- runs

    async def run(
        self,
        starting_agent: Agent[TContext],
        input: Any,  # noqa: A002 - the SDK's name
        *,
        run_id: str | None = None,
        **runner_kwargs: Any,
    ) -> RunResult:
        """`Runner.run`, governed; everything is settled when it returns or raises.

        Inside a governed scope, or inside a run of these hooks, that one governs it.

        Raises:
            BudgetExceededError: a call was denied, or the server is unreachable.
            ValueError: `hooks` was given, or the run id is in use.
            Exception: what `Runner.run` raises.
        """
        _check_options("run", runner_kwargs)
        if self.join(governing_run()):
            return await Runner.run(starting_agent, input, hooks=self, **runner_kwargs)
        async with self.carry(run_id):
            return await Runner.run(starting_agent, input, hooks=self, **runner_kwargs)

    def run_streamed(
        self,
        starting_agent: Agent[TContext],
        input: Any,  # noqa: A002 - the SDK's name
        *,
        run_id: str | None = None,
        **runner_kwargs: Any,
    ) -> CyclesRunResultStreaming:
        """`Runner.run_streamed`, governed; everything is settled when its events have ended."""
        _check_options("run_streamed", runner_kwargs)

        def start() -> RunResultStreaming:
            return Runner.run_streamed(starting_agent, input, hooks=self, **runner_kwargs)

        if self.join(governing_run()):
            return CyclesRunResultStreaming(start(), None)
        carriage = self.carry(run_id)
        return CyclesRunResultStreaming(carried_stream(carriage, start), carriage)

    def carry(self, run_id: str | None = None) -> BackgroundRun:
        """As `GoverningHooks.carry`."""
        install()  # another runner may have been put in its place
        self._forget_dead_loops()
        if self._outbox is not None:
            self._outbox.begin()
        carried = BackgroundRun(
            self._subject,
            self._policy,
            self._lender,
            run_id=run_id,
            outbox=self._outbox,
            as_seen=as_seen,
            carrier=self,
        )
        self._carried[carried.run.id] = carried
        return carried

    def left(self, run: Run) -> None:
        """Everything of `run` is over."""
        super().left(run)
        carried = self._carried.get(run.id)
        if carried is not None and carried.run is run:  # not one that was refused for its id
            del self._carried[run.id]

    def _forget_dead_loops(self) -> None:
        """Forget runs of loops that were closed without ending their tasks: their leases lapse."""
        for carried in tuple(self._carried.values()):
            if carried.loop.is_closed():
                carried.lose()

    # -- giving up

    async def release_pending(
        self, reason: str = "agent_run_failed", *, run_id: str | None = None
    ) -> None:
        """Settle what a run has open: what never began is released, what was dispatched is given
        up, and charged as such. The run goes on; a call that was only asking is refused, though,
        which ends it.

        Args:
            reason: stands in the releases and the charges.
            run_id: which run; None: the one that this is called in, else the only one there is.

        Raises:
            RuntimeError: no run was named, and there are several.
        """
        self._forget_dead_loops()
        if run_id is None:
            run_id = self._only_run()
        if run_id in self._carried:
            await self._give_up(self._carried[run_id], reason)

    async def release_all_pending(self, reason: str = "all_agent_runs_failed") -> None:
        """`release_pending` of every run, whatever loop it is in."""
        self._forget_dead_loops()
        for carried in tuple(self._carried.values()):
            await self._give_up(carried, reason)

    def _only_run(self) -> str | None:
        run = current_run.get()
        if run is not None and run.id in self._carried:
            return run.id
        if len(self._carried) > 1:
            raise RuntimeError(f"run_id: {len(self._carried)} runs are pending: name one of them")
        return next(iter(self._carried), None)

    async def _give_up(self, carried: BackgroundRun, reason: str) -> None:
        if self.is_unowned(carried):  # nobody else says that this run has ended
            await end_all([carried], reason)
        else:
            await carried.abandon(reason)


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    if "hooks" in options:
        raise ValueError(f"CyclesRunHooks.{method}() manages the hooks argument: leave it out")


def _llm_estimate(unit: Unit, estimate: int) -> Amount:
    return amount(Unit(unit), estimate, shown=f"llm_estimate={estimate!r}")


def _tools(
    given: Mapping[str, ToolEstimate] | ToolEstimateMap | None, default: int
) -> ToolEstimateMap:
    return given if isinstance(given, ToolEstimateMap) else ToolEstimateMap(given, default)


def _outbox(
    lender: LedgerPool, engine: AsyncCommitRetryEngine | None, attempts: int
) -> RetryEngineOutbox | None:
    """Return the engine that was given, else the config's; None where neither keeps anything."""
    client, config = lender.client, lender.config
    if engine is None and config is not None and config.retry_enabled:
        engine = AsyncCommitRetryEngine(config)
    if engine is None or not keeps(engine):
        return None
    if client is None and config is not None:
        client = AsyncCyclesClient(config)
    return RetryEngineOutbox(engine, client, attempts)
