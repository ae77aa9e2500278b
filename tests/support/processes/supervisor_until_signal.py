"""A supervisor in a plain script, until somebody stops it: LEDGER BACKEND [computing]."""

import sys

import anyio
from agents import Agent

from comptroller import Policy, open_ledger, open_supervisor, tokens
from comptroller.runtime import signals
from comptroller.testing import CountingModel

RUNS, ESTIMATE = 3, tokens(100)


def tell(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Waiting(CountingModel):
    """Never answers."""

    async def get_response(self, *_, **__):
        tell("asked")
        try:
            await anyio.sleep_forever()
        finally:
            tell("given up")


class Computing(CountingModel):
    """Never answers, and lets nothing else happen: it is asked once."""

    async def get_response(self, *_, **__):
        tell("asked")
        while signals._HANDLERS._interrupted is None:
            pass
        tell("pressed")
        while True:
            pass


async def main(ledger, model):
    policy = Policy(llm_estimate=ESTIMATE, settle_timeout=60)
    async with open_ledger(ledger) as opened:
        await opened.set_budget("tenant:acme", tokens(10_000))
        try:
            async with open_supervisor(
                ledger=opened, policy=policy, handle_signals=True
            ) as supervisor:
                for _ in range(RUNS):
                    agent = Agent("Triage agent", model=model())
                    supervisor.start(agent, "go", tenant="acme")
        finally:
            tell(f"charged {supervisor.statistics().spend}")


if __name__ == "__main__":
    model = Waiting
    if sys.argv[3:]:
        model, signals.STUCK = Computing, 0.0
    anyio.run(main, sys.argv[1], model, backend=sys.argv[2])
