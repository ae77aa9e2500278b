"""The same with the SDK in it: random trees of agents, models and tools (`trees`)."""

from random import Random
from typing import Any

import anyio
import attrs

from comptroller.supervisor import Supervisor
from support.random_agents import ESTIMATE, Dispatched, Tree, Truth, Turn, Work, made, rules


def tree(dice: Random, depth: int = 0) -> Tree:
    return Tree([_turn(dice, depth) for _ in range(dice.randint(1, 3))])


def _turn(dice: Random, depth: int) -> Turn:
    asks: list[Any] = [
        Work(dice.choice((0.0, 0.5, 3.0)), dice.choice(("returns", "returns", "raises", "reports")))
        for _ in range(dice.choice((0, 0, 1, 2)))
    ]
    if depth < 2 and dice.random() < 1 / 4:
        asks.append(tree(dice, depth + 1))
    ends = dice.choice(["answers"] * 8 + ["silent", "raises"])
    return Turn(dice.choice((0.0, 0.5, 2.0)), ends, dice.randint(1, ESTIMATE), asks)


@attrs.frozen
class Played:
    """One run of the SDK, and what its models and tools saw."""

    handle: Any
    truth: Truth


async def played(supervisor: Supervisor, run_id: str, tenant: str, dice: Random) -> Played:
    """One started run to its end; a third of them is cancelled on the way."""
    grown, truth = tree(dice), Truth()
    settling = dice.choice((1, 5, 20))
    handle = supervisor.start(
        made(grown, truth),
        "go",
        tenant=tenant,
        run_id=run_id,
        policy=attrs.evolve(rules(grown), settle_timeout=settling),
        hooks=Dispatched(truth),
    )
    if dice.random() < 1 / 3:
        await anyio.sleep(dice.choice((0.0, 0.3, 1.0, 4.0)))
        handle.cancel("its user closed the tab")
    await handle.outcome()
    return Played(handle, truth)
