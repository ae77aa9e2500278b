"""Session compaction calls the OpenAI client directly: neither a hook nor a model sees it.

So the session is seen through a view: the same state (one `__dict__`), another `client`; and one
that wraps it through a view that shows that view. The user's sessions are not changed (law 8): a
`Runner.run` is handed the view, and a program that compacts by hand is led to one by the method.
"""

from functools import partial
from typing import Any

from agents import ModelSettings
from agents.memory import OpenAIResponsesCompactionSession

from comptroller.core.estimates import LlmRequest
from comptroller.openai_agents import billing, convert
from comptroller.openai_agents.billing import RawAnswer
from comptroller.openai_agents.context import request_grant
from comptroller.openai_agents.request_failures import Attempt
from comptroller.runtime.call import CallRequest
from comptroller.runtime.run import Run


def governed_session(run: Run, episode: str, agent: str, session: Any) -> Any:
    """View a session that compacts, or wraps one that does; leave any other as it is.

    What a session wraps is its `underlying_session`, as the SDK's own sessions call it.
    """
    governed = partial(governed_session, run, episode, agent)

    if is_governed(session):
        return session
    if isinstance(session, OpenAIResponsesCompactionSession):
        client = _GovernedClient(
            lambda _: _GovernedCompactionClient(session.client, run, episode, agent)
        )
        return _view(session, client=client)

    wrapped = getattr(session, "__dict__", {}).get("underlying_session")
    if wrapped is None or governed(wrapped) is wrapped:
        return session
    underlying = property(
        lambda _: governed(session.underlying_session),
        lambda _, given: setattr(session, "underlying_session", given),
    )
    return _view(session, underlying_session=underlying)


def is_governed(session: Any) -> bool:
    """Whether it is a view whose compactions are governed calls."""
    return isinstance(getattr(type(session), "client", None), _GovernedClient)


class _GovernedClient(property):
    """The attribute `client` of such a view."""


def _view(session: Any, **seen: property) -> Any:
    """Return a view of the session, of the same state, in which `seen` is replaced."""
    view: Any = object.__new__(type("View", (type(session),), seen))
    view.__dict__ = session.__dict__
    return view


class _GovernedCompactionClient:
    """An OpenAI client whose `responses.compact` is a governed call."""

    def __init__(self, real: Any, run: Run, episode: str, agent: str) -> None:
        self._real, self._run, self._episode, self._agent = real, run, episode, agent
        self.responses = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real.responses, name)

    async def compact(self, **request: Any) -> Any:
        name = f"openai:{request.get('model', 'compaction')}"
        given = request.get("input") or ""
        sent = given if isinstance(given, str) else list(given)
        draft = CallRequest(
            kind="llm",
            name=name,
            agent=self._agent,
            episode=self._episode,
            request=LlmRequest(
                model=name,
                agent=self._agent,
                input_characters=convert.input_characters(None, sent, []),
                billing=billing.asked(self._real, ModelSettings()),
            ),
        )
        actor, _ = await request_grant(self._run, draft)
        attempt = Attempt()
        try:
            answer = await self._real.responses.compact(**request)
        except BaseException as error:
            actor.tell(attempt.end_of(error, self._run.ended))
            raise
        actor.tell(billing.finished(answer, RawAnswer(), name, billing.field_of(answer, "output")))
        return answer
