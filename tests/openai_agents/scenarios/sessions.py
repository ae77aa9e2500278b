"""Sessions, and their compaction, which asks the OpenAI client behind everybody's back."""

from types import SimpleNamespace

from agents import SQLiteSession
from agents.memory import OpenAIResponsesCompactionSession
from openai.types.responses import ResponseUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from comptroller.decide.pricing import TokenCount
from openai_agents.scenarios.register import Scenario, register
from openai_agents.stage import Play
from openai_agents.voices import Attempt, call

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
            trace.heard.append(str(await session.get_items()) if stage.can_wait else "")
        finally:
            session.close()
        return results

    return Play(agent, script, options={"session": session})
