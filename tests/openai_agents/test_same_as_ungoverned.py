"""Each scenario ends as it does without us, and the ledger is charged exactly what it cost."""

import pytest
from runcycles import Unit

from openai_agents.scenarios import SCENARIOS
from openai_agents.stage import Way, compare, governed, ungoverned

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

USD = Unit.USD_MICROCENTS
WAYS = [  # every pair of settings meets in one of them
    Way(),
    Way(unit=USD, streamed=True, remote=True),
    Way(streamed=True, nested=True, hooked=True),
    Way(unit=USD, nested=True, remote=True, hooked=True),
    Way(remote=True, streamed=True, hooked=True),
    Way(unit=USD, hooked=True),
    Way(nested=True, remote=True),
    Way(unit=USD, streamed=True, nested=True),
]


PERFORMANCES = [
    pytest.param(scenario, way, id=f"{scenario.name}-{way}")
    for scenario in SCENARIOS
    for way in WAYS
    if scenario.streamed >= way.streamed and scenario.nested >= way.nested
]


@pytest.mark.parametrize(("scenario", "way"), PERFORMANCES)
async def test_same_as_ungoverned(scenario, way, anyio_backend_name):
    if anyio_backend_name == "trio" and not scenario.trio:
        pytest.skip("needs asyncio itself")
    alone = await ungoverned(scenario.build, way)
    assert alone.trace.attempts
    other = await governed(scenario.build, way)
    compare(alone, other, way)
