"""Session compaction calls the OpenAI client directly: neither a hook nor a model sees it.

So the session is seen through a view: the same state (one `__dict__`), another `client`. The
user's session is not changed (law 8).
"""

from typing import Any

from agents.memory import OpenAIResponsesCompactionSession

from comptroller.decide.estimates import LlmRequest
from comptroller.decide.settlement import Finished
from comptroller.runtime.call import Draft
from comptroller.runtime.run import Run

from . import usage
from .active import admit
from .model import end_of


def governed_session(run: Run, episode: str, agent: str, session: Any) -> Any:
    """A view of a compacting session, any other session as it is."""
    if not isinstance(session, OpenAIResponsesCompactionSession):
        return session

    class View(type(session)):  # type: ignore[misc]
        @property
        def client(self) -> Any:
            return _Client(super().client, run, episode, agent)

    view = object.__new__(View)
    view.__dict__ = session.__dict__
    return view


class _Client:
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
        draft = Draft(
            kind="llm",
            name=name,
            agent=self._agent,
            episode=self._episode,
            request=LlmRequest(
                model=name,
                agent=self._agent,
                input_characters=usage.input_characters(None, sent, []),
            ),
        )
        actor, _ = await admit(self._run, draft)
        try:
            answer = await self._real.responses.compact(**request)
        except BaseException as error:
            actor.tell(end_of(error, self._run.ended))
            raise
        actor.tell(Finished(usage.token_count(usage.told(answer, "usage"))))
        return answer
