"""A clock that tests move."""

import attrs


@attrs.define
class Clock:
    """Epoch milliseconds that stand still until a test advances them."""

    start: int = 1_750_000_000_000
    now: int = attrs.Factory(lambda self: self.start, takes_self=True)

    def __call__(self):
        return self.now

    def advance(self, milliseconds):
        self.now += milliseconds
