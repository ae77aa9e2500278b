"""One of several processes that use one ledger file at once: `hammer.py FILE NAME PAIRS CALLERS`.

Prints a line for each commit that was acknowledged, `RESERVATION CHARGED`, as soon as it was.
"""

import os
import sys

import anyio

from comptroller.ledger.sqlite import open_sqlite
from ledger.asking import asking, committing


async def main(path, name, pairs, callers):
    numbers = iter(range(int(pairs)))
    async with open_sqlite(path) as ledger:

        async def call():
            for number in numbers:
                actual = number % 7
                made = await ledger.reserve(asking(f"{name}-{number}", 5, agent=name))
                request = committing(f"{name}-{number}", actual)
                done = await ledger.commit(made.reservation_id, request)
                os.write(1, f"{made.reservation_id} {done.charged.amount}\n".encode())

        async with anyio.create_task_group() as group:
            for _ in range(int(callers)):
                group.start_soon(call)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
