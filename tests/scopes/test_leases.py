"""Ten thousand leases in one process, each extended in time."""

import importlib.util
from pathlib import Path

import anyio
import pytest

from comptroller.testing import virtual_backend
from soak.audited_ledgers import loops_clock

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "leases.py"


def program():
    """The benchmark as a module; its folder is not on the path, where `ledger` means the tests'."""
    spec = importlib.util.spec_from_file_location("benchmark_of_leases", PROGRAM)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.alike
def test_ten_thousand_leases_are_held_without_a_late_beat():
    """Granted within two seconds, they come due within two seconds, again and again."""
    many = 10_000
    name, options = virtual_backend("asyncio")
    held = anyio.run(lambda: program().hold(many, 70, loops_clock()), backend=name,
                     backend_options=options)  # fmt: skip
    assert held.ends == {"committed": many}
    assert (held.late, held.stopped) == (0, 0)
    assert many <= held.beats < 1.5 * many
