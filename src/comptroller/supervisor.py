"""`open_supervisor`: many governed runs under one scope, started, watched and cancelled."""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from types import TracebackType
from typing import Any

import anyio
from agents import Agent
from agents.result import RunResult
from runcycles import Amount

from comptroller._eventloop import FrameScope, detachable
from comptroller._interrupts import uninterrupted
from comptroller._validation import check_type, must_return_at_once
from comptroller.errors import ComptrollerError, RunCancelled
from comptroller.ledger.factory import DefaultLedger
from comptroller.ledger.interface import Ledger
from comptroller.openai_agents.context import current_run
from comptroller.openai_agents.invocation import current_invocation
from comptroller.policy import Limits, Policy
from comptroller.receipts import Receipt
from comptroller.runs import (
    GovernedRun,
    RunOptions,
    RunScope,
    SupervisorContext,
    filled,
    open_ground,
    source,
)
from comptroller.runtime.outcomes import (
    Cancelled,
    Completed,
    Denied,
    Failed,
    RunOutcome,
    outcome_of,
)
from comptroller.runtime.portal import Condition, PortalClosed, reraise_cancellation
from comptroller.runtime.recovery import OnAbandoned, RecoveredReservation, recover
from comptroller.runtime.registry import RunHandle, RunRegistry, Statistics, Status
from comptroller.runtime.signals import Signals

log = logging.getLogger("comptroller")


class SupervisedRun(RunScope):
    """A run scope on a supervisor's hub, within its `max_concurrency`."""

    def __init__(
        self,
        agent: Agent[Any] | None,
        terms: RunOptions,
        ground: SupervisorContext,
        slots: anyio.CapacityLimiter,
    ) -> None:
        super().__init__(agent, terms)
        self._ground, self._slots = ground, slots
        self._needs_slot = not _inside(ground.hub)  # there it would wait for itself
        self._queue: anyio.CancelScope | None = None
        self._given_up: str | None = None

    @uninterrupted
    async def __aenter__(self) -> GovernedRun:
        await self._take_slot()
        try:
            return await self.enter(self._ground)
        except BaseException:
            self._give_back_slot()
            raise

    @uninterrupted
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            interrupted = await self.leave(error)
        finally:
            self._give_back_slot()
        reraise_cancellation(interrupted, error)

    async def _take_slot(self) -> None:
        """Wait until the supervisor has room. Raises RunCancelled when given up meanwhile."""
        if self._needs_slot and self._given_up is None:
            with anyio.CancelScope() as self._queue:
                await self._slots.acquire_on_behalf_of(self)
        if self._given_up is not None:
            self._give_back_slot()
            raise RunCancelled(self._given_up)

    def give_up(self, reason: str) -> None:
        """Do not wait any longer. Only at home."""
        self._given_up = reason
        if self._queue is not None:
            self._queue.cancel(reason)

    def _give_back_slot(self) -> None:
        with suppress(RuntimeError):  # it had none
            self._slots.release_on_behalf_of(self)


def _inside(hub: RunRegistry) -> bool:
    """Whether a run of `hub` governs this context, or a run around the one that does."""
    run = current_run.get()
    while run is not None and run.terms.home is not hub.home:
        run = run.outer
    return run is not None


class StartedRun:
    """A run that its supervisor carries. Await it for its result, or its `outcome()`."""

    def __init__(self, scope: SupervisedRun, hub: RunRegistry) -> None:
        self._scope, self._hub = scope, hub
        scope.shown = False  # this handle is
        self._change = Condition()
        self._run: GovernedRun | None = None
        self._outcome: list[RunOutcome] = []  # at most one
        self._trace: TracebackType | None = None  # of what it raised

    @property
    def id(self) -> str:
        """The run's id."""
        return self._scope.terms.run_id

    @property
    def status(self) -> Status:
        """`waiting` for a slot, `running`, or how it ended."""
        if self._outcome:
            return _STATUS[type(self._outcome[0])]
        return "running" if self._run is not None else "waiting"

    @property
    def receipt(self) -> Receipt:
        """What it used so far."""
        if self._run is not None:
            return self._run.receipt
        return Receipt(run_id=self.id, tenant=self._scope.terms.tenant)

    def cancel(self, reason: str = "cancelled") -> None:
        """End it, whether it waits or runs. From any task, loop or thread."""
        with suppress(PortalClosed):  # it has ended
            self._hub.home.call(self._cancel, reason)

    def _cancel(self, reason: str) -> None:
        self._scope.give_up(reason)
        if self._run is not None:
            self._run.cancel(reason)

    async def outcome(self) -> RunOutcome:
        """Wait for its end; what it raised is part of the answer.

        Raises:
            RuntimeError: awaited in another loop than the one that opened the supervisor.
        """
        self._hub.home.check_here("a started run is awaited")
        await self._change.until(lambda: bool(self._outcome))
        return self._outcome[0]

    async def result(self) -> RunResult:
        """Wait for its end: the SDK's result, or the error raised."""
        outcome = await self.outcome()
        if not isinstance(outcome, Completed):
            raise outcome.error.with_traceback(self._trace)  # not that of the last who asked
        result: RunResult = outcome.result
        return result

    def __await__(self) -> Generator[Any, Any, RunResult]:
        return self.result().__await__()

    @uninterrupted
    async def carry(self, given: Any, options: dict[str, Any]) -> None:
        """Its whole life, in a task at home."""
        current_run.set(None)  # started inside a governed run, it is no part of that
        current_invocation.set(None)
        outcome: RunOutcome = Cancelled(RunCancelled("its supervisor was left"))
        try:
            async with self._scope as self._run:
                outcome = Completed(await self._run(given, **options))
        except Exception as error:  # noqa: BLE001 - it is the outcome; `await handle` raises it
            outcome, self._trace = outcome_of(error), error.__traceback__
        finally:
            self._outcome.append(outcome)
            self._change.notify()
            if self._run is None:
                self._hub.forget(self.id, self.status)
            self._hub.put_down(self)


_STATUS: Mapping[type, Status] = {
    Completed: "completed",
    Denied: "denied",
    Failed: "failed",
    Cancelled: "cancelled",
}


class Supervisor:
    """What `async with open_supervisor(...) as supervisor` gives. Used in that loop.

    Attributes:
        recovered: what dead processes had left reserved, where recovery was asked for.
    """

    recovered: tuple[RecoveredReservation, ...] = ()

    def __init__(
        self,
        ground: SupervisorContext,
        books: Ledger | DefaultLedger,
        policy: Policy | Callable[[str], Policy],
        max_concurrency: int,
    ) -> None:
        self._ground, self._hub, self._books = ground, ground.hub, books
        self._policy = policy
        self._slots = anyio.CapacityLimiter(max_concurrency)

    @property
    def runs(self) -> Mapping[str, RunHandle]:
        """Run id to handle (`id`, `status`, `receipt`, `cancel`): all that wait or run, and the
        latest that have ended.
        """
        return self._hub.runs

    def statistics(self) -> Statistics:
        """Return a frozen snapshot: runs, calls, and spend by unit."""
        return self._hub.statistics()

    def run(
        self,
        agent: Agent[Any] | None,
        tenant: str,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        run_id: str | None = None,
        workspace: str | None = None,
        app: str | None = None,
        workflow: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        check: Amount | None = None,
    ) -> SupervisedRun:
        """As `governed_run`, with this supervisor's ledger, policy and concurrency."""
        terms = RunOptions(
            tenant=tenant,
            policy=self._policy_of(tenant) if policy is None else policy,
            limits=Limits() if limits is None else limits,
            run_id=run_id,
            workspace=workspace,
            app=app,
            workflow=workflow,
            dimensions=dimensions,
            check=check,
        )
        return SupervisedRun(agent, filled(terms, self._books), self._ground, self._slots)

    @uninterrupted
    def start(
        self,
        agent: Agent[Any],
        input: Any,  # noqa: A002 - the SDK's name
        *,
        tenant: str,
        policy: Policy | None = None,
        limits: Limits | None = None,
        run_id: str | None = None,
        workspace: str | None = None,
        app: str | None = None,
        workflow: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        check: Amount | None = None,
        **options: Any,
    ) -> StartedRun:
        """Start a run here and now. `options` are `Runner.run`'s keyword arguments.

        Raises:
            ValueError, TypeError: the run id is in use, or an argument makes no sense.
        """
        check_type("agent", agent, Agent, "an agents.Agent")
        scope = self.run(
            agent, tenant, policy=policy, limits=limits, run_id=run_id, workspace=workspace,
            app=app, workflow=workflow, dimensions=dimensions, check=check,
        )  # fmt: skip
        started = StartedRun(scope, self._hub)
        self._hub.register(started, carried=True)
        self._hub.home.start(started.carry, input, options, name=f"comptroller run {started.id}")
        return started

    async def recover(self) -> tuple[RecoveredReservation, ...]:
        """Settle what dead processes of this host have left reserved, by policy.

        A ledger that cannot say what is reserved is told in the log: leases run out by themselves.
        """
        try:
            self.recovered = tuple(await recover(self._hub.ledger, self._on_abandoned))
        except ComptrollerError:
            log.exception("what dead processes have left in %s is not known", self._hub.ledger.name)
        return self.recovered

    def _on_abandoned(self, tenant: str) -> OnAbandoned:
        return self._policy_of(tenant).on_abandoned

    def _policy_of(self, tenant: str) -> Policy:
        return self._policy if isinstance(self._policy, Policy) else self._policy(tenant)


class open_supervisor:  # noqa: N801 - used like a function
    """Many governed runs under one scope: `async with open_supervisor(ledger=ledger) as s`.

    Left normally, it waits for its runs; left by an exception or a cancellation, it cancels them.

    On asyncio another task may leave it than the one that entered it: a fixture's, or a notebook's
    next cell. Under trio it holds a nursery, so one task enters and leaves it; its
    `supervisor.run` may be left by another one.

    Args:
        ledger: from `open_ledger`; None: the one that the environment names.
        policy: of every run, or a function from a tenant to its policy.
        max_concurrency: how many runs go on at once; further ones wait.
        recover: settle at the start, by policy, what dead processes of this host have left
            reserved in the ledger. See `Supervisor.recovered`.
        handle_signals: let SIGTERM in the main thread cancel the runs where the program has no
            handler for it: once they are settled, SystemExit(143) is raised. A second SIGTERM, or a
            second Ctrl-C while they settle, ends the process at once.

    Raises:
        ValueError, TypeError: an argument that makes no sense; at once.
    """

    def __init__(
        self,
        *,
        ledger: Ledger | None = None,
        policy: Policy | Callable[[str], Policy] | None = None,
        max_concurrency: int = 100,
        recover: bool = False,
        handle_signals: bool = False,
    ) -> None:
        if type(max_concurrency) is not int or max_concurrency < 1:
            raise ValueError(
                f"max_concurrency={max_concurrency!r}: an int; at least 1 run must fit"
            )
        self._policy = Policy() if policy is None else policy
        if callable(self._policy):
            must_return_at_once("policy", self._policy, "a plain function tenant -> Policy")
        else:
            check_type(
                "policy", self._policy, Policy, "a Policy(...), or a function from a tenant to one"
            )
        self._books = source(ledger)
        self._max_concurrency, self._recover = max_concurrency, recover
        self._frame: FrameScope[SupervisorContext]
        self._hub: RunRegistry
        self._signals = Signals() if handle_signals else None

    @uninterrupted
    async def __aenter__(self) -> Supervisor:
        self._frame = detachable(open_ground(self._books))
        ground = await self._frame.open()
        self._hub = ground.hub
        try:
            supervisor = Supervisor(ground, self._books, self._policy, self._max_concurrency)
            if self._recover:
                await supervisor.recover()
            if self._signals is not None:
                self._signals.begin(ground.hub)
        except BaseException:
            await self._frame.close()
            raise
        return supervisor

    @uninterrupted
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted: BaseException | None = None
        async with AsyncExitStack() as left:
            if (signals := self._signals) is not None:
                left.push_async_callback(signals.end)
            try:
                with ExitStack() as body:
                    if signals is not None:
                        body.push(signals.leave_body)
                    if error is None:
                        await self._hub.all_ended()
            finally:
                if signals is not None:
                    signals.leaving = True
                why = "its supervisor was left" + (f" by {kind.__name__}" if kind else "")
                interrupted = await self._hub.cancel_all(why)
                interrupted = await self._frame.close() or interrupted
        reraise_cancellation(interrupted, error)
