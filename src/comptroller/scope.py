"""One governed run as its user holds it: start agents, stream, cancel, read the receipt."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import attrs
from agents import Agent, Runner
from agents.result import RunResult, RunResultStreaming
from agents.stream_events import StreamEvent
from runcycles import Amount, Subject

from .arguments import must_be
from .decide.names import checked, checked_dimensions, checked_run_id
from .errors import CallDenied, RunCancelled
from .host import Host
from .openai_agents.active import governing
from .policy import Limits, Policy
from .runtime.hub import Status
from .runtime.receipts import Receipt
from .runtime.run import Run


def _new_id_for_none(given: str | None) -> str:
    return uuid4().hex if given is None else given


@attrs.frozen(kw_only=True)
class RunRequest:
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
        must_be("policy", self.policy, Policy, "a Policy(...)")
        must_be("limits", self.limits, Limits, "Limits(...)")
        checked("tenant", self.tenant)
        checked_run_id(self.run_id)
        for name in ("workspace", "app", "workflow"):
            if (given := getattr(self, name)) is not None:
                checked(name, given)
        if self.dimensions is not None:
            checked_dimensions(self.dimensions)
        if self.check is not None:
            must_be("check", self.check, Amount, 'an amount such as usd("0.05")')

    def subject(self) -> Subject:
        """The subject of every call, without its agent and toolset."""
        return Subject(
            tenant=self.tenant,
            workspace=self.workspace,
            app=self.app,
            workflow=self.workflow,
            dimensions=dict(self.dimensions) if self.dimensions else None,
        )


class GovernedRun:
    """What `async with governed_run(...) as run` gives."""

    def __init__(self, agent: Agent[Any] | None, run: Run, host: Host) -> None:
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
        with governing(self._run):
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
        self, agent: Agent[Any], run: Run, host: Host, given: Any, options: dict[str, Any]
    ) -> None:
        self._agent, self._run, self._host = agent, run, host
        self._given, self._options = given, options
        self._result: RunResultStreaming | None = None
        self._events: Any = None

    def start(self) -> RunResultStreaming:
        """Start it, in asyncio code."""
        if self._result is None:
            self._run.check()
            with governing(self._run):
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
        """The events: this object itself."""
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
