"""Calls seen through hooks alone, where nothing of ours stands around the SDK's run.

What hooks cannot see stays unseen: retries behind one `on_llm_start`, session compaction, and how a
call ended that raised. Such a call is settled as given up when its run ends.
"""

from typing import Any

from agents import Agent, RunConfig
from agents.items import ModelResponse

from comptroller.decide.estimates import LlmRequest
from comptroller.decide.settlement import Abandoned
from comptroller.runtime.actor import Actor
from comptroller.runtime.call import Draft
from comptroller.runtime.run import Run

from . import usage
from .active import admit
from .compat import get_model, normalized
from .hooks import CallHooks
from .model import answered


class Callbacks(CallHooks):
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
        """The model may be asked when its reservation is granted."""
        self._drop(context)
        name = self._model_of(agent)
        request = LlmRequest(
            model=name,
            agent=agent.name,
            input_characters=usage.input_characters(system_prompt, input_items, []),
        )
        draft = Draft(
            kind="llm", name=name, agent=agent.name, episode=self._episode, request=request
        )
        actor, _ = await admit(self._run, draft)
        self._asked[id(context)] = (context, actor)

    async def on_llm_end(self, context: Any, agent: Agent[Any], response: ModelResponse) -> None:
        """Its usage is told."""
        del agent
        _, actor = self._asked.pop(id(context), (None, None))
        if actor is not None:
            answered(self._run, actor, response)

    def _drop(self, context: Any) -> None:
        """An earlier call of this context that never came back: the SDK has gone on without it."""
        _, actor = self._asked.pop(id(context), (None, None))
        if actor is not None:
            actor.tell(Abandoned("the model was asked again without an answer"))

    def _model_of(self, agent: Agent[Any]) -> str:
        asked_for = self._config.model or agent.model
        try:
            model = get_model(agent, self._config)
        except Exception:  # noqa: BLE001 - the SDK will raise it where the model is called
            return f"unknown:{asked_for}"
        return usage.model_name(model, asked_for if isinstance(asked_for, str) else None)
