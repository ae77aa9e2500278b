"""Under hooks every scenario ends as it does without us, and is charged exactly what it cost."""

import pytest
from runcycles import Unit

from openai_agents.scenarios import SCENARIOS
from support.governed_vs_plain import Way, compare, ungoverned
from support.hooks_scenarios import hooked

pytestmark = pytest.mark.anyio

USD = Unit.USD_MICROCENTS
WAYS = [Way(), Way(unit=USD, streamed=True), Way(unit=USD, nested=True)]
PERFORMANCES = [
    pytest.param(scenario, way, id=f"{scenario.name}-{way}")
    for scenario in SCENARIOS
    for way in WAYS
    if scenario.streamed >= way.streamed and scenario.nested >= way.nested
    if way == Way() or not scenario.name.startswith("default_settings")  # these are many, and alike
]


@pytest.mark.parametrize(("scenario", "way"), PERFORMANCES)
async def test_given_to_a_plain_run_hooks_govern_every_call(scenario, way):
    alone = await ungoverned(scenario.build, way)
    assert alone.trace.attempts
    compare(alone, await hooked(scenario.build, way), way)
