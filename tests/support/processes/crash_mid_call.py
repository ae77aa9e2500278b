"""A process that dies in the middle of two calls: `doomed.py LEDGER [KEY OUTBOX]`.

It says the keys of both. At a server the first one has ended, and its commit is on its way.
"""

import os
import sys

import anyio

from comptroller.ledger.factory import open_ledger
from support.run_harness import DONE, bench


async def main(url, key=None, outbox=None):
    settings = {"api_key": key, "outbox": outbox} if key else {}
    async with open_ledger(url, **settings) as ledger, bench(ledger, run_id="doomed/run") as it:
        both = [await it.granted(), await it.granted()]
        if key:
            both[0].actor.tell(DONE)
        for asked in both:
            os.write(1, f"{asked.actor.call.key}\n".encode())
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
