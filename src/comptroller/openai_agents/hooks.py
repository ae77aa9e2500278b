"""The hooks of one episode: who speaks, which tools run, who hands over. They only send messages.

A tool call is known by the context that both of its callbacks get, and the tool. Function tools and
custom tools have a context of their own. All others (shell, computer, patch) get that of their run,
which runs them one after another; inside an agent that is used as a tool, that is a context of the
outer call, whose id and arguments are not theirs. A tool counts as dispatched when our
`on_tool_start` has returned.

Under `tell_model` nothing of the user's is changed: every requested call is asked for when the
model has answered, and a denied one becomes a rejected approval, which the model reads.
"""

import asyncio
import inspect
import json
import logging
from contextvars import ContextVar
from typing import Any

import attrs
from agents import Agent, CustomTool, FunctionTool, RunHooks, Tool
from agents.items import ModelResponse, ToolApprovalItem
from openai.types.responses import ResponseFunctionToolCall
from runcycles import Unit

from comptroller.core.settlement import Abandoned, Finished, NotStarted
from comptroller.errors import BudgetExceeded, CallDenied
from comptroller.money import checked, show
from comptroller.openai_agents.codex import UNTOLD, turn_of
from comptroller.openai_agents.context import request_grant
from comptroller.openai_agents.model import GovernedModel
from comptroller.openai_agents.request_failures import describe_error
from comptroller.runtime.actor import Actor
from comptroller.runtime.call import CallRequest
from comptroller.runtime.run import Run

log = logging.getLogger("comptroller")


delegated_by_us: ContextVar[bool] = ContextVar("comptroller_handed_on", default=False)
"""Whether a callback comes from hooks of ours, which govern the call that it is about."""


@attrs.frozen
class _Running:
    """A tool at work. It keeps the context and the tool, so that their ids stay their own."""

    context: Any
    tool: Tool
    actor: Actor


class ToolCallHooks(RunHooks[Any]):
    """Callbacks that become messages: tools and handoffs. All is handed on to the caller's own."""

    def __init__(self, run: Run, episode: str, own: Any) -> None:
        self._run, self._episode = run, episode
        self.own: RunHooks[Any] = RunHooks() if own is None else own
        self._running: dict[tuple[int, int], _Running] = {}

    async def _hand_on(self, callback: str, *args: Any, **named: Any) -> None:
        """To the caller's own hooks, which learn that these calls are governed."""
        mark = delegated_by_us.set(True)
        try:
            await getattr(self.own, callback)(*args, **named)
        finally:
            delegated_by_us.reset(mark)

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        """Handed on."""
        await self._hand_on("on_agent_start", context, agent)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """Handed on."""
        await self._hand_on("on_agent_end", context, agent, output)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """Record the handoff as an event."""
        draft = CallRequest(
            kind="event", name=to_agent.name, agent=from_agent.name, episode=self._episode
        )
        self._run.note(
            "agent.handoff", draft, None, **{"from": from_agent.name, "to": to_agent.name}
        )
        await self._hand_on("on_handoff", context=context, from_agent=from_agent, to_agent=to_agent)

    async def on_tool_start(self, context: Any, agent: Agent[Any], tool: Tool) -> None:
        """Reserve the tool's call: it may begin when that is granted."""
        actor = self._reserved_ahead(context, tool)
        if actor is None:
            actor, _ = await request_grant(self._run, self._draft(tool.name, agent))
        try:
            await self._hand_on("on_tool_start", context, agent, tool)
            self._run.check()  # it may have ended since the grant
        except BaseException as error:
            why = self._run.ended or f"on_tool_start raised {type(error).__name__}"
            actor.tell(NotStarted(str(why)))
            raise
        key = id(context), id(tool)
        lost, self._running[key] = self._running.get(key), _Running(context, tool, actor)
        if lost is not None:
            lost.actor.tell(Abandoned("the tool was started again before it had ended"))

    async def on_tool_end(self, context: Any, agent: Agent[Any], tool: Tool, result: Any) -> None:
        """Tell what the call cost."""
        running = self._running.pop((id(context), id(tool)), None)
        if running is not None:  # none: it was approved in an earlier run, and settled there
            running.actor.tell(self._ended(running, result))
        await self._hand_on("on_tool_end", context, agent, tool, result)

    def _ended(self, running: _Running, result: Any) -> Finished:
        """How a tool's call ended. What Codex used in it is charged apart, unless the user's map
        has a price for the tool.
        """
        end, asked = _end(running, result), running.actor.call.draft
        turn = turn_of(running.tool, result, asked)
        if turn is None:
            return end
        if asked.name in self._run.terms.policy.tools:
            return attrs.evolve(end, usage=turn.used)
        if not turn.known:
            return attrs.evolve(end, problem=UNTOLD)
        self._run.used(turn.draft, turn.used)
        return end

    def _reserved_ahead(self, context: Any, tool: Tool) -> Actor | None:
        """Return the actor of a call that was asked for when the model requested it."""
        del context, tool
        return None

    def _draft(self, tool: str, agent: Agent[Any], *, tells_model: bool = False) -> CallRequest:
        return CallRequest(
            kind="tool",
            name=tool,
            agent=agent.name,
            episode=self._episode,
            tells_model=tells_model,
        )


class InvocationHooks(ToolCallHooks):
    """Given to the SDK in place of the caller's own, beside the dispatching model."""

    def __init__(self, run: Run, episode: str, dispatcher: GovernedModel, own: Any) -> None:
        super().__init__(run, episode, own)
        self._dispatcher = dispatcher
        self._reserved: dict[object, Actor] = {}  # ahead of time, not begun

    async def on_llm_start(
        self, context: Any, agent: Agent[Any], system_prompt: str | None, input_items: Any
    ) -> None:
        """Tell the dispatching model who speaks."""
        self._dispatcher.speaks(agent)
        self._give_back("the model was asked again without running it")
        await self._hand_on("on_llm_start", context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: Any, agent: Agent[Any], response: ModelResponse) -> None:
        """Under `tell_model`, the requested tool calls are asked for now."""
        if self._run.terms.policy.on_tool_denied == "tell_model":
            calls = {
                item.call_id: item  # the SDK runs a call once, however often it stands there
                for item in response.output
                if isinstance(item, ResponseFunctionToolCall)
                and item.name in self._dispatcher.tools
            }
            answers = await asyncio.gather(
                *(self._reserve_ahead(context, agent, call) for call in calls.values()),
                return_exceptions=True,  # a grant that came later would be nobody's
            )
            for refusal in filter(None, answers):
                raise refusal
        await self._hand_on("on_llm_end", context, agent, response)

    def _reserved_ahead(self, context: Any, tool: Tool) -> Actor | None:
        if not isinstance(tool, FunctionTool):  # no other is asked for ahead
            return None
        return self._reserved.pop(context.tool_call_id, None)

    async def _reserve_ahead(
        self, context: Any, agent: Agent[Any], call: ResponseFunctionToolCall
    ) -> None:
        draft = self._draft(call.name, agent, tells_model=True)
        try:
            self._reserved[call.call_id], _ = await request_grant(self._run, draft)
        except CallDenied as denial:
            context.reject_tool(
                ToolApprovalItem(agent=agent, raw_item=call),
                rejection_message=f"The tool {call.name} was not run: {_for_the_model(denial)}",
            )

    def _give_back(self, why: str) -> None:
        for actor in self._reserved.values():
            actor.tell(NotStarted(why))
        self._reserved.clear()

    def close(self, why: str, *, clean: bool) -> None:
        """End the episode. A tool still open after a clean end is paused (for an approval
        inside it): what it did so far is settled here, its continuation is nobody's.
        """
        self._give_back(why)
        for running in self._running.values():
            running.actor.tell(Finished() if clean else Abandoned(why))
        self._running.clear()
        self._dispatcher.rests()


def _for_the_model(denial: CallDenied) -> str:
    """Return what a model may repeat to a customer: no path and no operator's command.

    Amounts may help it to choose a cheaper tool.
    """
    by_ledger = isinstance(denial, BudgetExceeded)
    in_amounts = denial.reason_code == "BUDGET_EXCEEDED" and denial.remaining is not None
    return denial.public if by_ledger and not in_amounts else str(denial)


def _end(running: _Running, result: Any) -> Finished:
    """Return what the user's `actual` says; where that is wrong, the estimate is charged."""
    actor = running.actor
    actual, reserved = actor.call.actual, actor.call.estimate
    if actual is None:
        return Finished()
    try:
        given: object = actual(_arguments(running), result)
        if inspect.iscoroutine(given):
            given.close()  # else Python says that nobody awaited it, where nobody looks
        cost = checked(given)
        if cost.unit != reserved.unit and reserved.amount:
            raise ValueError(f"{show(cost)} is not in {Unit(reserved.unit).value}, as its estimate")
    except Exception as error:
        tool, why = actor.call.draft.name, describe_error(error)
        log.exception("actual() of tool %s is wrong: %s: its estimate is charged", tool, why)
        return Finished(problem=f"actual() is wrong: {why}: its estimate is charged")
    return Finished(cost=cost)


def _arguments(running: _Running) -> Any:
    """Return the tool's arguments: parsed where they are JSON, else as written; None where
    its context is not its own.
    """
    if not isinstance(running.tool, FunctionTool | CustomTool):
        return None
    given = getattr(running.context, "tool_arguments", None)
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return given
