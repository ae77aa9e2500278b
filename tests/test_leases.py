"""Ten thousand leases in one process, each extended in time."""

import anyio
import leases

from comptroller.testing import virtual_backend
from soak.books import loops_clock


def test_ten_thousand_leases_are_held_without_a_late_beat():
    """Granted within two seconds, they come due within two seconds, again and again."""
    many = 10_000
    name, options = virtual_backend("asyncio")
    held = anyio.run(lambda: leases.hold(many, 70, loops_clock()), backend=name,
                     backend_options=options)  # fmt: skip
    assert held.ends == {"committed": many}
    assert (held.late, held.stopped) == (0, 0)
    assert many <= held.beats < 1.5 * many
