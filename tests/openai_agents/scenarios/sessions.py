"""Sessions, and their compaction, which asks the OpenAI client behind everybody's back."""

from types import SimpleNamespace

from agents import SQLiteSession
from agents.extensions.memory import EncryptedSession
from agents.memory import OpenAIResponsesCompactionSession
from openai.types.responses import ResponseUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from comptroller.core.pricing import TokenCount
from openai_agents.scenarios.registry import Scenario, register
from support.governed_vs_plain import Play
from support.recording_models import Attempt, call

SCENARIOS: list[Scenario] = []
scenario = register(SCENARIOS)


@scenario(nested=False)
def a_session(trace):
    session = SQLiteSession("s")
    agent = trace.agent("Triage agent", "quick", "One.", [call("weather")], "Two.",
                        tools=[trace.tool()])  # fmt: skip

    async def script(stage):
        try:
            results = [await stage.run("go"), await stage.run("go on")]
        finally:
            session.close()
        return results

    return Play(agent, script, options={"session": session})


class Client:
    """An OpenAI client that can only compact; `failing` with an error before it answers."""

    def __init__(self, trace, error=None, *, usage=True):
        self.trace, self.error, self.usage = trace, error, usage
        self.responses = self

    async def compact(self, **request):
        items = request.get("input") or []
        size = sum(len(str(item)) for item in items)
        attempt = Attempt("gpt-4.1", (), size, None, streamed=False)
        self.trace.compacted.append(attempt)
        if self.error is not None:
            attempt.ended = "abandoned"
            raise self.error
        attempt.ended = "answered"
        output = [{"type": "compaction", "encrypted_content": "short"}]
        if not self.usage:
            return SimpleNamespace(output=output)
        attempt.used = TokenCount(input=70, output=7)
        return SimpleNamespace(output=output, usage=ResponseUsage(
            input_tokens=70, output_tokens=7, total_tokens=77,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        ))  # fmt: skip


def compacting(trace, client, inside=lambda session: session, **fields):
    """Two runs of one session, which is compacted after each; `inside` another one, perhaps."""
    store = SQLiteSession("s")
    session = OpenAIResponsesCompactionSession(
        "s", store, client=client, should_trigger_compaction=lambda context: True,
        compaction_mode="input",
    )  # fmt: skip
    given = inside(session)
    agent = trace.agent("Triage agent", "quick", "One.", [call("weather")], "Two.",
                        tools=[trace.tool()])  # fmt: skip

    async def script(stage):
        try:
            return [await stage.run("go"), await stage.run("go on")]
        finally:
            assert session.client is client
            assert given is session or given.underlying_session is session
            assert trace.compacted
            store.close()

    return Play(agent, script, options={"session": given}, **fields)


@scenario(nested=False)
def a_session_that_is_compacted(trace):
    return compacting(trace, Client(trace))


@scenario(nested=False)
def a_compaction_without_usage(trace):
    return compacting(trace, Client(trace, usage=False))


@scenario(nested=False)
def a_compaction_that_fails(trace):
    return compacting(trace, Client(trace, ValueError("no compaction today")))


def encrypted(session):
    return EncryptedSession("s", session, encryption_key="k" * 32)


@scenario(nested=False)
def an_encrypted_session_that_is_compacted(trace):
    return compacting(trace, Client(trace), inside=encrypted)
