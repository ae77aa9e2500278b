"""`governed_run`, the scope of one run, and the run as its user holds it in the scope."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any
from uuid import uuid4

import anyio
import attrs
from agents import Agent, Runner
from agents.result import RunResult, RunResultStreaming
from agents.stream_events import StreamEvent
from runcycles import Amount, Subject

from comptroller._eventloop import EventLoopBackend, FrameScope, detachable, open_host
from comptroller._interrupts import uninterrupted
from comptroller._validation import check_attribute, check_type
from comptroller.core.identifiers import checked, checked_dimensions, checked_run_id
from comptroller.errors import CallDenied, RunCancelled
from comptroller.ledger.factory import DefaultLedger, default_settings
from comptroller.ledger.interface import MEMBERS, Ledger
from comptroller.openai_agents.context import pop_run, push_run, run_scope
from comptroller.openai_agents.errors import for_sdk
from comptroller.openai_agents.runner import install
from comptroller.policy import Limits, Policy
from comptroller.receipts import Receipt
from comptroller.runtime.portal import LoopPortal, reraise_cancellation
from comptroller.runtime.registry import RunRegistry, Status
from comptroller.runtime.run import Run


def _new_id_for_none(given: str | None) -> str:
    return uuid4().hex if given is None else given


@attrs.frozen(kw_only=True)
class RunOptions:
    """Who spends, and by which rules: the checked arguments of a governed run."""

    tenant: str = attrs.field()
    policy: Policy
    limits: Limits
    run_id: str = attrs.field(default=None, converter=_new_id_for_none)
    workspace: str | None = None
    app: str | None = None
    workflow: str | None = None
    dimensions: Mapping[str, str] | None = None
    check: Amount | None = None

    def __attrs_post_init__(self) -> None:
        check_type("policy", self.policy, Policy, "a Policy(...)")
        check_type("limits", self.limits, Limits, "Limits(...)")
        checked("tenant", self.tenant)
        checked_run_id(self.run_id)
        for name in ("workspace", "app", "workflow"):
            if (given := getattr(self, name)) is not None:
                checked(name, given)
        if self.dimensions is not None:
            checked_dimensions(self.dimensions)
        if self.check is not None:
            check_type("check", self.check, Amount, 'an amount such as usd("0.05")')

    def subject(self) -> Subject:
        """Return the subject of every call, without its agent and toolset."""
        return Subject(
            tenant=self.tenant,
            workspace=self.workspace,
            app=self.app,
            workflow=self.workflow,
            dimensions=dict(self.dimensions) if self.dimensions else None,
        )


class GovernedRun:
    """What `async with governed_run(...) as run` gives."""

    def __init__(self, agent: Agent[Any] | None, run: Run, host: EventLoopBackend) -> None:
        self._agent, self._run, self._host = agent, run, host
        self._status: Status = "running"

    @property
    def id(self) -> str:
        """The run's id: in the receipt, in errors, and in the ledger's idempotency keys."""
        return self._run.id

    @property
    def status(self) -> Status:
        """`running` until its scope has exited."""
        return self._status

    @property
    def receipt(self) -> Receipt:
        """What it reserved, was charged, was denied; readable while it runs, too."""
        return self._run.receipt

    def cancel(self, reason: str = "cancelled") -> None:
        """End the run: `run(...)` raises `RunCancelled(reason)`. From any task, loop or thread.

        Only what goes on inside `run(...)` and streams is interrupted, no other await of yours.
        """
        self._run.cancel(reason)

    async def __call__(self, input: Any, **options: Any) -> RunResult:  # noqa: A002 - the SDK's name
        """Run the agent, as `Runner.run(agent, input, **options)`.

        Raises:
            BudgetExceeded, LimitReached, ToolDenied: a call was denied.
            BudgetNotFound, UnitMismatch: the budget is not there, or kept in another unit.
            LedgerUnreachable, LedgerRefused, LedgerMisbehaved, CredentialsMissing: no grant.
            RunCancelled: the run was cancelled.
            Exception: what `Runner.run` raises.
        """
        agent = self._started()
        self._run.check()
        with run_scope(self._run):
            result: RunResult = await self._host.aio(Runner.run)(agent, input, **options)
            return result

    def stream(self, input: Any, **options: Any) -> "GovernedStream":  # noqa: A002 - the SDK's name
        """Run the agent as a stream, as `Runner.run_streamed(agent, input, **options)`."""
        stream = GovernedStream(self._started(), self._run, self._host, input, options)
        if not self._host.carries:
            stream.start()
        return stream

    def _started(self) -> Agent[Any]:
        if self._agent is None:
            raise TypeError("agent=None: give governed_run(...) the agents.Agent that this starts")
        return self._agent

    def left(self, status: Status) -> None:
        """Its scope has exited."""
        self._status = status


class GovernedStream:
    """A stream of `agents.StreamEvent`s: iterate it, or its `stream_events()`.

    Everything else is `agents.RunResultStreaming`'s: `final_output`, `new_items`, `cancel()`,
    `to_input_list()`, `interruptions`, `to_state()` and so on. Under trio it starts with the first
    event, under asyncio at once. No scope or task is held between two events.
    """

    def __init__(
        self,
        agent: Agent[Any],
        run: Run,
        host: EventLoopBackend,
        given: Any,
        options: dict[str, Any],
    ) -> None:
        self._agent, self._run, self._host = agent, run, host
        self._given, self._options = given, options
        self._result: RunResultStreaming | None = None
        self._events: Any = None

    def start(self) -> RunResultStreaming:
        """Start it, in asyncio code."""
        if self._result is None:
            self._run.check()
            with run_scope(self._run):
                self._result = Runner.run_streamed(self._agent, self._given, **self._options)
        return self._result

    def __aiter__(self) -> "GovernedStream":
        return self

    async def __anext__(self) -> StreamEvent:
        event: StreamEvent = await self._host.aio(self._next)()
        return event

    async def _next(self) -> StreamEvent:
        if self._events is None:
            self._events = self.start().stream_events()
        event: StreamEvent = await anext(self._events)
        return event

    async def aclose(self) -> None:
        """Read no more of it: as the SDK's own, it waits until its run has come to its end.

        `cancel()` before it ends that at once.
        """
        if self._events is not None:
            await self._host.aio(self._events.aclose)()

    def stream_events(self) -> "GovernedStream":
        """Return the events: this object itself."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._result is None:
            raise RuntimeError(f"{name}: the stream starts with its first event: iterate it first")
        return getattr(self._result, name)


def status_of(error: BaseException | None, run: Run) -> Status:
    """How a scope stands that was left with `error`."""
    cause = error if error is not None else run.ended
    if cause is None:
        return "completed"
    if isinstance(cause, CallDenied):
        return "denied"
    return "failed" if isinstance(cause, Exception) and not isinstance(
        cause, RunCancelled) else "cancelled"  # fmt: skip


@attrs.frozen
class SupervisorContext:
    """What runs stand on.

    Attributes:
        hub: the home, and who is there.
        host: how the SDK is called from there.
    """

    hub: RunRegistry
    host: EventLoopBackend


def source(ledger: Ledger | None) -> Ledger | DefaultLedger:
    """Return the given ledger, else what the environment names: read once for a scope and its runs.

    Raises:
        TypeError: what was given is no ledger, but perhaps its address, or half of one.
    """
    if ledger is None:
        return default_settings()
    check_attribute("ledger", ledger, "reserve", "what `async with open_ledger(...)` gives")
    if lacking := [name for name in MEMBERS if not hasattr(ledger, name)]:
        raise TypeError(
            f"ledger={type(ledger).__name__}(...) lacks {', '.join(lacking)}: a ledger of your own"
            " has every member of comptroller.ledger.interface.Ledger"
        )
    return ledger


@asynccontextmanager
async def open_ground(books: Ledger | DefaultLedger) -> AsyncIterator[SupervisorContext]:
    """Open a home with its ledger (see `source`).

    It is left in peace: an outer cancellation waits until it is closed. A run that is still
    there, because an asyncio loop ends under it, is closed here.
    """
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host())
        shelter = stack.enter_context(anyio.CancelScope())
        if isinstance(books, DefaultLedger):
            ledger: Ledger = await stack.enter_async_context(books.open())
        else:
            ledger = books
        hub = RunRegistry(await stack.enter_async_context(LoopPortal()), ledger, as_seen=for_sdk)
        try:
            yield SupervisorContext(hub, host)
        finally:
            shelter.shield = True
            await hub.cancel_all("its event loop has ended")


def filled(terms: RunOptions, books: Ledger | DefaultLedger) -> RunOptions:
    """`terms` with the subject fields of the environment, where it names the ledger."""
    if not isinstance(books, DefaultLedger):
        return terms
    return attrs.evolve(
        terms,
        workspace=terms.workspace or books.workspace,
        app=terms.app or books.app,
        workflow=terms.workflow or books.workflow,
    )


class RunScope(AbstractAsyncContextManager[GovernedRun]):
    """The scope of a run on a hub. No task group or cancel scope is held across its body, so it
    may be left in another task than the one that entered it.

    Attributes:
        shown: whether its hub shows it; a started run is shown by its own handle.
    """

    shown = True

    def __init__(self, agent: Agent[Any] | None, terms: RunOptions) -> None:
        if agent is not None or terms.check is not None:
            check_type("agent", agent, Agent, "an agents.Agent")
        self.agent, self.terms = agent, terms
        self._run: Run
        self._handle: GovernedRun
        self._hub: RunRegistry

    async def enter(self, ground: SupervisorContext) -> GovernedRun:
        """Open it at the hub's home, and make it the run that governs this context.

        Where it is to be checked first, a refusal has ended the run when the body begins.
        """
        handle = self._open(ground)
        if (expected := self.terms.check) is not None and self.agent is not None:
            try:
                await self._run.ask(expected, self.agent.name)
            except BaseException as error:
                await self.leave(error)
                raise
        return handle

    def _open(self, ground: SupervisorContext) -> GovernedRun:
        install()
        terms, hub = self.terms, ground.hub
        run = hub.new_run(terms.run_id, terms.subject(), terms.policy, terms.limits)
        handle = GovernedRun(self.agent, run, ground.host)
        if self.shown:
            hub.register(handle)
        hub.begin(run)
        push_run(run)
        self._hub, self._run, self._handle = hub, run, handle
        return handle

    async def leave(self, error: BaseException | None) -> BaseException | None:
        """Close the run; returns a native cancellation that came meanwhile."""
        pop_run(self._run)
        status = status_of(error, self._run)
        why = "its scope was left" if error is None else f"its scope raised {type(error).__name__}"
        interrupted = await self._run.close(why)
        self._handle.left(status)
        self._hub.ended(self._run, status)
        return interrupted


class governed_run(RunScope):  # noqa: N801 - used like a function
    """Govern what the SDK runs in this scope: `async with governed_run(agent, "acme") as run`.

    Args:
        agent: what `run(...)` starts. Any other `Runner.run` inside the scope is governed too;
            None: only they are.
        tenant: who spends.
        ledger: from `open_ledger`; None: the one that the environment names.
        policy: what is reserved, and what happens on a denial.
        limits: local ceilings of this run.
        run_id: your id for it; None: a new one.
        workspace, app, workflow, dimensions: further fields of the subject.
        check: what the run is expected to cost. The ledger is asked for it before the first call;
            where it would not grant it, `run(...)` raises and no token is spent.

    Raises:
        ValueError, TypeError: an argument that makes no sense; at once.
    """

    def __init__(
        self,
        agent: Agent[Any] | None,
        tenant: str,
        *,
        ledger: Ledger | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        run_id: str | None = None,
        workspace: str | None = None,
        app: str | None = None,
        workflow: str | None = None,
        dimensions: Mapping[str, str] | None = None,
        check: Amount | None = None,
    ) -> None:
        terms = RunOptions(
            tenant=tenant,
            policy=Policy() if policy is None else policy,
            limits=Limits() if limits is None else limits,
            run_id=run_id,
            workspace=workspace,
            app=app,
            workflow=workflow,
            dimensions=dimensions,
            check=check,
        )
        self._books = source(ledger)
        super().__init__(agent, filled(terms, self._books))
        self._ground: FrameScope[SupervisorContext]

    @uninterrupted
    async def __aenter__(self) -> GovernedRun:
        ground = detachable(open_ground(self._books))
        opened = await ground.open()
        try:
            handle = await self.enter(opened)
        except BaseException:
            await ground.close()
            raise
        self._ground = ground
        return handle

    @uninterrupted
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = await self.leave(error)
        interrupted = await self._ground.close() or interrupted
        reraise_cancellation(interrupted, error)
