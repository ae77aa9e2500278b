"""`governed_run`: the scope of one run, on a supervisor's hub or on a private one."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any

import anyio
import attrs
from agents import Agent
from runcycles import Amount

from .arguments import must_be, must_have
from .host import Framed, Host, kept, open_host
from .interrupts import uninterrupted
from .ledger.interface import MEMBERS, Ledger
from .ledger.opening import DefaultLedger, default_settings
from .openai_agents.active import step_in, step_out
from .openai_agents.runner import install
from .policy import Limits, Policy
from .runtime.home import Home, raise_unless_known
from .runtime.hub import Hub
from .runtime.run import Run
from .scope import GovernedRun, RunRequest, status_of


@attrs.frozen
class Ground:
    """What runs stand on.

    Attributes:
        hub: the home, and who is there.
        host: how the SDK is called from there.
    """

    hub: Hub
    host: Host


def source(ledger: Ledger | None) -> Ledger | DefaultLedger:
    """The given ledger, else what the environment names: read once for a scope and its runs.

    Raises:
        TypeError: what was given is no ledger, but perhaps its address, or half of one.
    """
    if ledger is None:
        return default_settings()
    must_have("ledger", ledger, "reserve", "what `async with open_ledger(...)` gives")
    if lacking := [name for name in MEMBERS if not hasattr(ledger, name)]:
        raise TypeError(
            f"ledger={type(ledger).__name__}(...) lacks {', '.join(lacking)}: a ledger of your own"
            " has every member of comptroller.ledger.interface.Ledger"
        )
    return ledger


@asynccontextmanager
async def open_ground(books: Ledger | DefaultLedger) -> AsyncIterator[Ground]:
    """A home with its ledger (see `source`).

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
        hub = Hub(await stack.enter_async_context(Home()), ledger)
        try:
            yield Ground(hub, host)
        finally:
            shelter.shield = True
            await hub.cancel_all("its event loop has ended")


def filled(terms: RunRequest, books: Ledger | DefaultLedger) -> RunRequest:
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

    def __init__(self, agent: Agent[Any] | None, terms: RunRequest) -> None:
        if agent is not None or terms.check is not None:
            must_be("agent", agent, Agent, "an agents.Agent")
        self.agent, self.terms = agent, terms
        self._run: Run
        self._handle: GovernedRun
        self._hub: Hub

    async def enter(self, ground: Ground) -> GovernedRun:
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

    def _open(self, ground: Ground) -> GovernedRun:
        install()
        terms, hub = self.terms, ground.hub
        run = hub.new_run(terms.run_id, terms.subject(), terms.policy, terms.limits)
        handle = GovernedRun(self.agent, run, ground.host)
        if self.shown:
            hub.register(handle)
        hub.begin(run)
        step_in(run)
        self._hub, self._run, self._handle = hub, run, handle
        return handle

    async def leave(self, error: BaseException | None) -> BaseException | None:
        """Close the run; returns a native cancellation that came meanwhile."""
        step_out(self._run)
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
        terms = RunRequest(
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
        self._ground: Framed[Ground]

    @uninterrupted
    async def __aenter__(self) -> GovernedRun:
        ground = kept(open_ground(self._books))
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
        raise_unless_known(interrupted, error)
