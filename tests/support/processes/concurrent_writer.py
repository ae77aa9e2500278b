"""One of several processes that use one ledger file at once: `hammer.py FILE NAME PAIRS CALLERS`.

Prints a line for each commit that was acknowledged, `RESERVATION CHARGED SECONDS`, as soon as it
was; the seconds are those of the machine's monotonic clock. With 0 pairs it says `ready`, begins
when a line comes in, and goes on until its standard input closes.
"""

import itertools
import os
import sys
import time

import anyio
import anyio.to_thread

from comptroller.ledger.sqlite import open_sqlite
from support.requests import asking, committing


async def main(path, name, pairs, callers):
    numbers = iter(range(int(pairs))) if int(pairs) else itertools.count()
    async with open_sqlite(path) as ledger:

        async def call():
            for number in numbers:
                actual = number % 7
                made = await ledger.reserve(asking(f"{name}-{number}", 5, agent=name))
                request = committing(f"{name}-{number}", actual)
                done = await ledger.commit(made.reservation_id, request)
                now = time.monotonic()
                os.write(1, f"{made.reservation_id} {done.charged.amount} {now}\n".encode())

        async with anyio.create_task_group() as group:
            if not int(pairs):
                os.write(1, b"ready\n")
                await anyio.to_thread.run_sync(sys.stdin.readline)
            for _ in range(int(callers)):
                group.start_soon(call)
            if not int(pairs):
                await anyio.to_thread.run_sync(sys.stdin.read)
                group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
