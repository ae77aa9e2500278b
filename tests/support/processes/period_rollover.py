"""One of several processes on one ledger file, whose clocks pass midnight while they spend:
`midnight.py FILE NAME MIDNIGHT_MS`. Says `ready`, and begins when it is told, in seconds of the
machine's clock: two seconds before midnight.

Prints a line for each commit, `RESERVED_MS CHARGED`, and goes on for half a second into the day.
"""

import os
import sys
import time

import anyio

from comptroller.ledger.sqlite import open_sqlite
from support.requests import asking, committing


def say(text):
    os.write(1, f"{text}\n".encode())


async def main(path, name, midnight_ms):
    begins, midnight_ms = time.time(), int(midnight_ms)

    def now():
        return midnight_ms - 2000 + max(int((time.time() - begins) * 1000), 0)

    async with open_sqlite(path, now=now) as ledger:
        say("ready")
        begins = float(sys.stdin.readline())

        async def spend(caller):
            number = 0
            while now() < midnight_ms + 500 or number == 0:
                number += 1
                key = f"{name}-{caller}-{number}"
                made = await ledger.reserve(asking(key, 5, agent="a", ttl_ms=60_000))
                await anyio.sleep(0.01)
                done = await ledger.commit(made.reservation_id, committing(key, number % 6))
                say(f"{made.expires_at_ms - 60_000} {done.charged.amount}")

        async with anyio.create_task_group() as callers:
            for caller in range(5):
                callers.start_soon(spend, caller)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
