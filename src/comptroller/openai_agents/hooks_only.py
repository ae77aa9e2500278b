"""Calls seen through hooks alone, where nothing of ours stands around the SDK's run.

What hooks cannot see stays unseen: retries behind one `on_llm_start`, session compaction, and how a
call ended that raised. Such a call is settled as given up when its run ends.
"""

from collections.abc import Awaitable
from typing import Any

import attrs
from agents import Agent, Model, RunConfig, RunContextWrapper, TContext, Tool
from agents.items import ModelResponse

from comptroller.core.estimates import LlmRequest
from comptroller.core.settlement import Abandoned
from comptroller.errors import ComptrollerError
from comptroller.openai_agents import billing, convert
from comptroller.openai_agents.context import request_grant
from comptroller.openai_agents.hook_runs import GoverningHooks, HookRun, end_all, followed
from comptroller.openai_agents.hooks import ToolCallHooks, delegated_by_us
from comptroller.openai_agents.model import answered
from comptroller.openai_agents.sdk_internals import get_model, normalized
from comptroller.runtime.actor import Actor
from comptroller.runtime.call import CallRequest
from comptroller.runtime.run import Run


class HooksOnlyInvocation(ToolCallHooks):
    """One SDK run as its callbacks show it.

    LLM calls are keyed by the context that both of their callbacks get: nested runs that share
    these hooks have contexts of their own.
    """

    def __init__(self, run: Run, config: RunConfig | dict[str, Any] | None) -> None:
        super().__init__(run, run.episode_id(None), None)
        self._config, _ = normalized(config)
        self._asked: dict[int, tuple[Any, Actor]] = {}  # with the context, so its id stays its own

    @property
    def idle(self) -> bool:
        """Whether no call is open."""
        return not self._asked and not self._running

    async def on_llm_start(
        self, context: Any, agent: Agent[Any], system_prompt: str | None, input_items: Any
    ) -> None:
        """Reserve the model's call: it may be asked when that is granted."""
        self._drop(context)
        model, name = self._model_of(agent)
        request = LlmRequest(
            model=name,
            agent=agent.name,
            input_characters=convert.input_characters(system_prompt, input_items, []),
            billing=billing.asked(model, agent.model_settings),
        )
        draft = CallRequest(
            kind="llm", name=name, agent=agent.name, episode=self._episode, request=request
        )
        actor, _ = await request_grant(self._run, draft)
        self._asked[id(context)] = (context, actor)

    async def on_llm_end(self, context: Any, agent: Agent[Any], response: ModelResponse) -> None:
        """Its usage is told."""
        del agent
        _, actor = self._asked.pop(id(context), (None, None))
        if actor is not None:
            answered(self._run, actor, response)

    def _drop(self, context: Any) -> None:
        """Give up a call of this context that never came back: the SDK has gone on without it."""
        _, actor = self._asked.pop(id(context), (None, None))
        if actor is not None:
            actor.tell(Abandoned("the model was asked again without an answer"))

    def _model_of(self, agent: Agent[Any]) -> tuple[Model | None, str]:
        asked_for = agent.model if self._config.model is None else self._config.model
        try:
            model = get_model(agent, self._config)
        except Exception:  # noqa: BLE001 - the SDK will raise it where the model is called
            return None, f"unknown:{asked_for}"
        return model, convert.model_name(model, asked_for if isinstance(asked_for, str) else None)


@attrs.frozen
class _HookRunState:
    """A run that a callback has begun.

    Attributes:
        usage: what names the SDK run; kept, so that its id stays its own.
        followed: whether the `Runner.run` around it ends it.
    """

    convert: object
    carriage: HookRun
    hooks: HooksOnlyInvocation
    followed: bool


class CallbackGoverningHooks(GoverningHooks[TContext]):
    """Governing hooks whose callbacks govern where nothing else does.

    An episode that hands on to them governs its calls itself. Else the first callback begins a run;
    it ends with the `Runner.run` around it. Where that is not ours, either, it ends with a refusal,
    or with the end of an agent of which no call is open: the outermost one, since one inside a tool
    has that tool's.
    """

    def __init__(self) -> None:
        self._begun: dict[int, _HookRunState] = {}

    def is_unowned(self, carriage: HookRun) -> bool:
        """Whether a callback has begun it and nothing follows it, so that nobody knows its end."""
        return any(
            seen.carriage is carriage and not seen.followed for seen in tuple(self._begun.values())
        )

    def left(self, run: Run) -> None:
        """Everything of `run` is over: whoever carries it says so."""
        for key, seen in tuple(self._begun.items()):
            if seen.carriage.run is run:
                del self._begun[key]

    async def on_agent_start(self, context: Any, agent: Agent[TContext]) -> None:  # noqa: ARG002
        """Where a `Runner.run` is followed, its run begins: what runs inside it is governed."""
        if followed() is not None:
            self._hearing(context)

    async def on_agent_end(self, context: Any, agent: Agent[TContext], output: Any) -> None:  # noqa: ARG002
        """Where no `Runner.run` is followed, the outermost agent's end is the run's."""
        seen = self._begun.get(_key(context))
        if seen is not None and not seen.followed and seen.hooks.idle:
            await end_all([seen.carriage], "the agent has ended")

    async def on_llm_start(
        self,
        context: RunContextWrapper[TContext],
        agent: Agent[TContext],
        system_prompt: str | None,
        input_items: list[Any],
    ) -> None:
        """Reserve. Raises the refusal."""
        if (seen := self._hearing(context)) is not None:
            await _asked(seen, seen.hooks.on_llm_start(context, agent, system_prompt, input_items))

    async def on_llm_end(
        self, context: RunContextWrapper[TContext], agent: Agent[TContext], response: ModelResponse
    ) -> None:
        """Settle what it used."""
        if (seen := self._begun.get(_key(context))) is not None:
            await seen.hooks.on_llm_end(context, agent, response)

    async def on_tool_start(
        self, context: RunContextWrapper[TContext], agent: Agent[TContext], tool: Tool
    ) -> None:
        """Reserve. Raises the refusal."""
        if (seen := self._hearing(context)) is not None:
            await _asked(seen, seen.hooks.on_tool_start(context, agent, tool))

    async def on_tool_end(
        self, context: RunContextWrapper[TContext], agent: Agent[TContext], tool: Tool, result: Any
    ) -> None:
        """Settle what it cost."""
        if (seen := self._begun.get(_key(context))) is not None:
            await seen.hooks.on_tool_end(context, agent, tool, result)

    async def on_handoff(
        self,
        context: RunContextWrapper[TContext],
        from_agent: Agent[TContext],
        to_agent: Agent[TContext],
    ) -> None:
        """Record it."""
        if (seen := self._hearing(context)) is not None:
            await seen.hooks.on_handoff(context, from_agent, to_agent)

    def _hearing(self, context: Any) -> _HookRunState | None:
        """Who hears the callbacks of this context; None where an episode has handed them on."""
        if delegated_by_us.get():
            return None
        key = _key(context)
        if key not in self._begun:
            self._begun[key] = self._begin(context)
        return self._begun[key]

    def _begin(self, context: Any) -> _HookRunState:
        around, carriage = followed(), self.carry()
        if around is not None:
            around.carriages.append(carriage)
        hooks = HooksOnlyInvocation(carriage.run, around.config if around is not None else None)
        return _HookRunState(_usage(context), carriage, hooks, followed=around is not None)


async def _asked(seen: _HookRunState, asking: Awaitable[None]) -> None:
    """Where nothing follows it, a refusal is the last that is heard of a run."""
    try:
        await asking
    except ComptrollerError as refusal:
        if not seen.followed:
            await end_all([seen.carriage], str(refusal), refusal)
        raise


def _usage(context: Any) -> object:
    """Contexts of one SDK run share what it has used: that names the run."""
    return getattr(context, "usage", context)


def _key(context: Any) -> int:
    return id(_usage(context))
