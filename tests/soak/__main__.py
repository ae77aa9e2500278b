"""Thousands of random run trees through a ledger that fails, and the reckoning.

    make soak                                     5,000 trees, a new seed each time
    make soak SOAK="--trees 20000 --rate 0.3"     more of them, and worse weather
    make soak SOAK="--again 17.23"                one plot again, as a failure names it

It stands among the tests, not the benchmarks: it holds promises, fails where one is broken, and is
made of their trees.
"""

import argparse
import logging
import random
import sys
import time
import traceback

import agents
from runcycles import Unit

from comptroller.money import formatted
from soak.trials import SIZE, Tally, plot


def arguments() -> argparse.Namespace:
    given = argparse.ArgumentParser("soak", description=__doc__.partition("\n")[0])
    given.add_argument("--trees", type=int, default=5_000, help="run trees, in plots of 25")
    given.add_argument("--seed", type=int, help="of everything; a new one where left out")
    given.add_argument("--rate", type=float, default=0.1, help="requests that meet a fault")
    given.add_argument("--minutes", type=float, default=10, help="the bound")
    given.add_argument("--again", metavar="SEED.NUMBER", help="one plot again")
    return given.parse_args()


def main() -> int:
    options = arguments()
    agents.set_tracing_disabled(True)
    if options.again:
        seed, number = map(int, options.again.split("."))
        return report(*soak(seed, [number], options.rate, options.minutes))
    logging.disable()  # every settlement that fails is logged, and tens of thousands do
    seed = random.randrange(10**6) if options.seed is None else options.seed
    numbers = range(-(-options.trees // SIZE))
    print(f"seed {seed}: {len(numbers) * SIZE} run trees, {options.rate:.0%} faults", flush=True)
    return report(*soak(seed, numbers, options.rate, options.minutes))


def soak(seed, numbers, rate, minutes) -> tuple[Tally, int]:
    """The sum of the plots, and how many failed."""
    total, failed, began = Tally(), 0, time.monotonic()
    for number in numbers:
        if time.monotonic() - began > minutes * 60:
            print(f"FAILED: the bound of {minutes:g} minutes is over at plot {seed}.{number}")
            return total, failed + 1
        wrong = played(plot(seed, number, rate), total)
        failed += bool(wrong)
        for each in wrong[:5]:
            print(f"FAILED {seed}.{number}: {each}")
        if wrong:
            print(f'  again: make soak SOAK="--again {seed}.{number} --rate {rate}"', flush=True)
    print(f"{time.monotonic() - began:.0f} s")
    return total, failed


def played(one, total: Tally) -> list[str]:
    """What went wrong in it."""
    try:
        tally = one.play()
    except Exception:  # noqa: BLE001 - it is what went wrong
        return [traceback.format_exc()]
    total.add(tally)
    return tally.wrong


def report(total: Tally, failed: int) -> int:
    """Print what became of all; the exit status."""
    print(f"{total.trees} run trees, {total.calls} calls, {total.faults.total()} faults:")
    print("  " + ", ".join(f"{count} {kind}" for kind, count in total.faults.most_common()))
    print("  " + ", ".join(f"{count} {kind}" for kind, count in total.outcomes.most_common()))
    print(f"  {total.sent_again} charges sent again at the end")
    for unit in Unit:
        if consumed := total.consumed[unit]:
            charged, short = total.charged[unit], total.shortfall[unit]
            equal = "=" if charged + short == consumed else "IS NOT"
            total_of_it = f"{consumed} ({formatted(unit, consumed)})"
            print(
                f"  {unit.value}: {charged} charged + {short} short {equal} {total_of_it} consumed"
            )
    print(f"  overspent {len(total.overspent)}, leaks {len(total.leaks)},"
          f" duplicates {len(total.duplicates)}, untrue {len(total.untrue)}")  # fmt: skip
    print(f"FAILED: {failed} plots" if failed else "all promises were kept")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
