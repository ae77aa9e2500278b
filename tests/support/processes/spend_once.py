"""A process that spends: `debtor.py URL OUTBOX KEY`. One call of 30 tokens, then it waits."""

import os
import sys

import anyio

from comptroller.ledger.factory import open_ledger
from support.run_harness import bench


async def main(url, outbox, key):
    async with open_ledger(url, api_key=key, outbox=outbox) as ledger, bench(ledger) as it:
        os.write(1, f"{(await it.whole()).outcome.value}\n".encode())
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
