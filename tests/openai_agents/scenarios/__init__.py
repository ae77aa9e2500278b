"""The scenarios of the seam, by what the SDK does in them: cases to be played, not tests."""

from openai_agents.scenarios import agents, approvals, guardrails, models, sessions, tools

MODULES = (agents, tools, guardrails, models, approvals, sessions)
SCENARIOS = [scenario for module in MODULES for scenario in module.SCENARIOS]
