"""The dispatching model of one episode: every attempt of every agent passes through it.

`RunConfig.model` given as a `Model` wins over every agent's model, so this one object sees each
attempt. It resolves the real model as the SDK would have from the original run config and the
agent that is speaking; agents are neither cloned nor changed. What the SDK probes on a model is
forwarded to the real one.

One reservation per attempt (law 2): `get_response` and `stream_response` bracket the real call, so
its result, its exception, its cancellation and a closed generator are all seen in one frame.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any

import attrs
from agents import Agent, Model, ModelResponse, ModelSettings, RunConfig, UserError
from agents.models import get_default_model_settings
from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest, ModelRetryNormalizedError
from runcycles import Caps

from comptroller.core.estimates import CHARACTERS_PER_TOKEN, LlmRequest
from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import Abandoned, Finished, NotStarted
from comptroller.errors import ComptrollerError
from comptroller.openai_agents import billing, convert
from comptroller.openai_agents.billing import RawAnswer
from comptroller.openai_agents.context import request_grant
from comptroller.openai_agents.raw_responses import overheard
from comptroller.openai_agents.request_failures import Attempt
from comptroller.openai_agents.sdk_internals import changed, close_stream, get_model, is_paused
from comptroller.policy import tools_with_price
from comptroller.runtime.actor import Actor
from comptroller.runtime.call import CallGrant, CallRequest
from comptroller.runtime.run import Run

_PLACES = ("system_instructions", "input", "model_settings", "tools")  # of `Model`'s methods
_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_ITEM_DONE = "response.output_item.done"
_BYPASSES = frozenset({"max_tokens", "max_output_tokens", "max_completion_tokens"})


class GovernedModel(Model):
    """The model that the SDK is given for one episode.

    Attributes:
        original: the run config as the caller gave it.
        handed: the copy of it that the SDK has, with this model in it.
        agent: the agent that speaks; the episode's own `on_llm_start` tells, since within one
            `Runner.run` LLM calls are sequential.
        tools: the names of the tools that the model was handed last.
    """

    def __init__(self, run: Run, episode: str, original: RunConfig, agent: Agent[Any]) -> None:
        self._run, self._episode = run, episode
        self.original, self.agent = original, agent
        self.handed = changed(original, model=self)
        self.tools: frozenset[str] = frozenset()
        self._attempt = 0
        self._read_and_said = 0  # tokens of the latest answer, with all that it was the answer to
        self._asking: tuple[Model, Actor, CallGrant] | None = None
        self._paused: tuple[Model, Actor, CallGrant] | None = (
            None  # `_asking`, whose answer goes on
        )
        self._target: Model | None = None
        self._used: list[Model] = []

    def speaks(self, agent: Agent[Any]) -> None:
        """Begin a turn of `agent`: the next attempts are its own."""
        if self._attempt or agent is not self.agent:  # else it was only looked at so far
            self._target = None
        self.agent, self._attempt = agent, 0

    def rests(self) -> None:
        """End the episode. Contexts of the SDK may hold us for longer: we hold a name only."""
        self.agent = _named(self.agent.name)
        self._give_up("its answer was not asked for to the end")

    def _give_up(self, why: str) -> None:
        """Give up a paused answer: it has run, and nobody says what it used."""
        if self._paused is not None:
            self._paused[1].tell(Abandoned(why))
            self._paused = None

    # -- what the SDK asks of the model in place

    def target(self) -> Model:
        """Return the real model, resolved once a turn: providers may give a new one each time."""
        if self._target is None:
            self._target = get_model(self.agent, self.original)
        return self._target

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The SDK's `isinstance(model, OpenAIChatCompletionsModel)` is about the real one."""
        return type(self.target()) if "_used" in self.__dict__ else GovernedModel

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_used" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.target(), name)

    async def close(self) -> None:
        """As the real model."""
        await self.target().close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        """Of every model that was asked; what one of them raises keeps no other from it."""
        async with AsyncExitStack() as stack:
            for model in reversed(self._used):
                stack.push_async_callback(model._cleanup_on_run_end, owner)

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """Ask the real model; a refusal is never retried (`is_abort` wins over any policy)."""
        if isinstance(request.error, ComptrollerError):
            veto = ModelRetryNormalizedError(is_abort=True)
            return ModelRetryAdvice(suggested=False, replay_safety="unsafe", normalized=veto)
        return self.target().get_retry_advice(request)

    # -- one attempt

    async def get_response(self, *places: Any, **names: Any) -> ModelResponse:
        """One attempt, reserved before and settled after it."""
        model, asked = self._resolve(), _ModelCallArgs(places, names)
        goes_on = self._paused is not None
        actor, asked = await self._begin(model, asked, self._settings(asked["model_settings"]))
        model, raw = overheard(model)
        attempt = Attempt(heard=goes_on)
        try:
            response = await model.get_response(*asked.places, **asked.names)
        except BaseException as error:
            if raw.whole and raw.usage is not None:  # answered, in a way that the SDK rejects
                answered(self._run, actor, None, raw)
            actor.tell(attempt.end_of(error, self._run.ended))
            raise
        self._finished(actor, response, raw)
        return response

    async def stream_response(self, *places: Any, **names: Any) -> AsyncIterator[Any]:
        """Make one attempt, event by event. Usage comes with the terminal event only."""
        model, asked = self._resolve(), _ModelCallArgs(places, names)
        goes_on = self._paused is not None
        actor, asked = await self._begin(model, asked, self._settings(asked["model_settings"]))
        model, raw = overheard(model)
        items: list[Any] = []  # of its output, those seen whole so far
        attempt = Attempt(heard=goes_on)
        try:
            stream: Any = model.stream_response(*asked.places, **asked.names)
            try:
                async for event in stream:
                    attempt.heard = True
                    self._streamed(actor, event, raw, items)
                    yield event
            finally:
                await close_stream(stream)
        except BaseException as error:
            if self._paused is None:
                actor.tell(attempt.end_of(error, self._run.ended))
            raise
        finally:
            noted(self._run, actor, items)
        if self._paused is None:
            actor.tell(Finished())  # no terminal event: the usage is unknown, never zero

    def _streamed(self, actor: Actor, event: Any, raw: RawAnswer, items: list[Any]) -> None:
        kind, response = billing.field_of(event, "type"), billing.field_of(event, "response")
        if kind in _TERMINAL and response is not None:
            self._finished(actor, response, raw, items)
            items.clear()
        elif kind == _ITEM_DONE:
            items.append(billing.field_of(event, "item"))
        elif count := convert.streamed_tokens(event):
            actor.streamed = (actor.streamed or 0) + count

    def _finished(
        self, actor: Actor, response: Any, raw: RawAnswer, seen: Sequence[Any] = ()
    ) -> None:
        if self._asking is not None and is_paused(self._asking[0], response):
            self._paused = self._asking
            noted(self._run, actor, billing.field_of(response, "output") or seen)
            return
        if (used := answered(self._run, actor, response, raw, seen)) is not None:
            self._read_and_said = used.total

    def _resolve(self) -> Model:
        model = self.target()
        if all(model is not used for used in self._used):
            self._used.append(model)
        return model

    async def _begin(
        self, model: Model, asked: "_ModelCallArgs", settings: ModelSettings
    ) -> tuple[Actor, "_ModelCallArgs"]:
        """Reserve the attempt. Returns its actor, and what is asked under the grant's caps."""
        tools = asked["tools"]
        self.tools = frozenset(tool.name for tool in tools)
        if self._paused is not None and self._paused[0] is model:  # one answer, one reservation
            self._run.check()
            (_, actor, grant), self._paused = self._paused, None
            return actor, asked.under(_capped(settings, grant.caps))
        self._give_up("another model was asked instead of going on")
        self._attempt += 1
        named = self.agent.model if self.original.model is None else self.original.model
        name = convert.model_name(model, named if isinstance(named, str) else None)
        kept = self._read_and_said * CHARACTERS_PER_TOKEN if asked.continues else 0
        request = LlmRequest(
            model=name,
            agent=self.agent.name,
            input_characters=kept
            + convert.input_characters(asked["system_instructions"], asked["input"], tools),
            max_tokens=_most_output(settings),
            billing=billing.asked(model, settings),
        )
        actor, grant = await request_grant(
            self._run,
            CallRequest(
                kind="llm",
                name=name,
                agent=self.agent.name,
                episode=self._episode,
                attempt=self._attempt,
                request=request,
            ),
        )
        self._asking = model, actor, grant
        try:
            return actor, asked.under(_capped(settings, grant.caps))
        except UserError as error:
            actor.tell(NotStarted(str(error)))
            raise

    def _settings(self, given: ModelSettings) -> ModelSettings:
        """With the defaults that go with a model's name: an instance in the config drops them.

        Settings that have none to add stay what they are: they may be of a class of the user's.
        """
        model, configured = self.agent.model, self.original.model
        implicit = ModelSettings() if isinstance(model, Model) else _defaults_of(model)
        if self.agent.model_settings != implicit or isinstance(configured, Model):
            return given
        named = _defaults_of(configured) if isinstance(configured, str) else implicit
        return named.resolve(given)


@attrs.frozen
class _ModelCallArgs:
    """What a model is asked: by place or by name, as the SDK has it, so that it reaches the user's
    model in the same way. That may know the names only, or call them otherwise.
    """

    places: tuple[Any, ...]
    names: dict[str, Any]

    @property
    def continues(self) -> bool:
        """Whether the provider is to read again what it has kept of the conversation."""
        kept = ("previous_response_id", "conversation_id")
        return any(self.names.get(name) is not None for name in kept)

    def __getitem__(self, name: str) -> Any:
        return self.names[name] if name in self.names else self.places[_PLACES.index(name)]

    def under(self, settings: ModelSettings) -> "_ModelCallArgs":
        """Return the same with other settings."""
        if "model_settings" in self.names:
            return attrs.evolve(self, names={**self.names, "model_settings": settings})
        at = _PLACES.index("model_settings")
        return attrs.evolve(self, places=(*self.places[:at], settings, *self.places[at + 1 :]))


def callers_own(config: RunConfig) -> RunConfig:
    """Return the run config as its caller gave it, where it is one that the SDK was handed.

    A copy of that, changed by whoever made it, keeps its changes.
    """
    dispatcher = config.model
    if type(dispatcher) is not GovernedModel:
        return config
    if config is dispatcher.handed:
        return dispatcher.original
    return changed(config, model=dispatcher.original.model)


def answered(
    run: Run,
    actor: Actor,
    response: Any,
    raw: RawAnswer | None = None,
    seen: Sequence[Any] = (),
) -> TokenCount | None:
    """Tell the usage of an answer to `actor`'s call, and note the provider's tools.

    `raw`: what was overheard of the answer. `seen`: the output of its stream, which some providers
    leave out of the response. Returns the usage.
    """
    output = billing.field_of(response, "output") or seen
    apart = tools_with_price(run.terms.policy.tools, billing.UNITS_OF_TOOLS)
    end = billing.finished(response, raw or RawAnswer(), actor.call.draft.name, output, apart)
    actor.tell(end)
    noted(run, actor, output)
    return end.usage


def noted(run: Run, actor: Actor, output: Any) -> None:
    """Record the tools that the provider has run in `actor`'s call, whatever became of it."""
    asked = actor.call.draft
    for tool, item in billing.hosted_calls(output):
        known = billing.field_of(item, "id")
        if isinstance(known, str):  # an answer in pieces may show it in each of them
            if known in actor.recorded:
                continue
            actor.recorded.add(known)
        draft = CallRequest(kind="event", name=tool, agent=asked.agent, episode=asked.episode)
        cost = run.terms.policy.tools.cost(tool).estimate
        run.note("tool.hosted", draft, cost if cost.amount else None)


@lru_cache(maxsize=256)  # making an agent costs as much as a reservation
def _named(name: str) -> Agent[Any]:
    """Return an agent that is nothing but a name."""
    return Agent(name)


def _defaults_of(name: str | None) -> ModelSettings:
    return get_default_model_settings() if name is None else get_default_model_settings(name)


def _limits_beside(settings: ModelSettings) -> dict[str, Any]:
    """Return the limits on output that go to the provider beside `max_tokens`."""
    sent = billing.sent_beside(settings)
    return {name: sent[name] for name in _BYPASSES & sent.keys()}


def _most_output(settings: ModelSettings) -> int | None:
    """Return the most output tokens that the settings allow, None where they set no limit."""
    limits = (settings.max_tokens, *_limits_beside(settings).values())
    return max((limit for limit in limits if isinstance(limit, int)), default=None)


def _capped(settings: ModelSettings, caps: Caps | None) -> ModelSettings:
    """Return the settings under the ledger's cap on output tokens."""
    if caps is None or caps.max_tokens is None:
        return settings
    if beside := sorted(_limits_beside(settings)):
        raise UserError(
            f"{', '.join(beside)} in extra_args or extra_body would bypass the ledger's cap of"
            f" {caps.max_tokens} output tokens: set ModelSettings.max_tokens instead"
        )
    wanted = settings.max_tokens
    if wanted is None or wanted < 0:  # some local servers read a negative one as "no limit"
        wanted = caps.max_tokens
    return changed(settings, max_tokens=min(wanted, caps.max_tokens))
