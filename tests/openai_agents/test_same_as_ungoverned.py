"""Each scenario ends as it does without us, and the ledger is charged exactly what it cost."""

import pytest
from runcycles import Unit

from comptroller.testing import virtual_backend
from openai_agents.scenarios import SCENARIOS
from support.governed_vs_plain import Way, compare, governed, ungoverned

pytestmark = pytest.mark.anyio

USD = Unit.USD_MICROCENTS
WAYS = {  # on asyncio every pair of settings meets in one of them
    "asyncio": [
        Way(),
        Way(unit=USD, streamed=True, remote=True),
        Way(unit=USD, nested=True, remote=True),
        Way(unit=USD, nested=True, hooked=True),
        Way(streamed=True, nested=True, hooked=True),
        Way(streamed=True, remote=True, hooked=True),
    ],
    "trio": [Way(streamed=True, remote=True), Way(unit=USD, hooked=True)],
}
PERFORMANCES = [
    pytest.param((backend, scenario, way), id=f"{scenario.name}-{way}-{backend}")
    for backend, ways in WAYS.items()
    for scenario in SCENARIOS
    for way in ways
    if scenario.streamed >= way.streamed and scenario.nested >= way.nested
    if way.hooked or not scenario.name.startswith("default_settings")  # these are many, and alike
]


@pytest.fixture(params=PERFORMANCES)
def performance(request):
    return request.param


@pytest.fixture
def anyio_backend(performance):
    return virtual_backend(performance[0])


async def test_same_as_ungoverned(performance):
    _, scenario, way = performance
    alone = await ungoverned(scenario.build, way)
    assert alone.trace.attempts
    other = await governed(scenario.build, way)
    compare(alone, other, way)
