"""The fixtures in a test of pytest-trio."""

import pytest
from agents import Agent

from comptroller.testing import CountingModel


@pytest.mark.trio
async def test_a_supervisor_is_open_for_the_test(supervisor):
    agent = Agent("Agent", model=CountingModel())
    assert (await supervisor.start(agent, "go", tenant="acme")).final_output == "done"
