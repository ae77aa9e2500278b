"""Arguments that make no sense are refused in a line that says what to write."""

import pytest

from comptroller.testing import Faults, cancel_everywhere, deny_at, lose_answer


async def program(trial):
    del trial


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (lambda: deny_at("2"), TypeError, "number: '2' is not a whole number: write an int"),
        (lambda: deny_at(True), TypeError, "number: True is not a whole number: write an int"),
        (lambda: lose_answer(0), ValueError, "number: 0: the least is 1"),
        (lambda: Faults(seed=1, rate=2), ValueError, "rate: 2: a number from 0 to 1"),
        (lambda: Faults(seed=1, rate="x"), ValueError, "rate: 'x': a number from 0 to 1"),
        (lambda: Faults(seed=1, slowest=-1), ValueError, "slowest: -1: a number from 0 to inf"),
        (
            lambda: Faults(seed=1, slowest=float("nan")),
            ValueError,
            "slowest: nan: a number from 0 to inf",
        ),
        (
            lambda: cancel_everywhere(program, backend="curio"),
            ValueError,
            "backend: 'curio': write 'asyncio' or 'trio'",
        ),
        (
            lambda: cancel_everywhere(program, how="gently"),
            ValueError,
            "how: 'gently': write 'scope' or 'task' or 'handle'",
        ),
    ],
)
def test_a_wrong_setting_of_a_test_is_refused(wrong, kind, message):
    with pytest.raises(kind) as raised:
        wrong()
    assert str(raised.value) == message
