"""What a run reserved, was charged, released, was denied: one line per call, a tree by episode.

Lines are frozen; the book replaces a line when its call moves on, so a snapshot is a tuple of the
present lines and may be taken from any thread while the run goes on.
"""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs
from runcycles import Amount, Unit

from comptroller.core.call_lifecycle import Outcome
from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import ESTIMATED_SOURCES
from comptroller.money import MICROCENTS_PER_USD, Sums, formatted, show


@attrs.frozen(kw_only=True)
class CallReceipt:
    """One call.

    Attributes:
        id: unique in the run. `episode`: its `Runner.run`; `parent`: the enclosing one, or None.
        kind: the action kind (`llm.completion`, `tool.invoke`, `agent.handoff`, ...).
        agent: who made it. `name`: the model or the tool. Both as the user spells them.
        attempt: 1, and more for the retries of one LLM request.
        reserved: what was asked for. `estimate_source`: how that was found.
        actual: what it cost. `actual_source`: `usage`, `reported` (the provider has named the
            cost itself), `tool`, `streamed` or `estimate`.
        charged: what the ledger took. `shortfall`: actual minus charged, in the same unit.
        tokens: input, cached, output and reasoning tokens, where the model reported them.
        started: when it asked, in seconds since the epoch.
        waited: seconds until the answer. `lasted`: seconds from the grant to the call's end.
        outcome, reason: how it ended, and why.
        would_deny: under `dry_run`, the reason code of the denial that was not enforced.
        heartbeat: why the lease stopped being extended before the call's end, or None.
        reservation_id: the ledger's, None where nothing was reserved.
    """

    id: str
    episode: str
    kind: str
    agent: str
    name: str
    attempt: int = 1
    reserved: Amount
    estimate_source: str = "fixed"
    actual: Amount | None = None
    actual_source: str | None = None
    charged: Amount | None = None
    tokens: TokenCount | None = None
    started: float = 0.0
    waited: float | None = None
    lasted: float | None = None
    outcome: Outcome = Outcome.RESERVING
    reason: str = ""
    would_deny: str | None = None
    heartbeat: str | None = None
    reservation_id: str | None = None

    @property
    def parent(self) -> str | None:
        """The episode around this one."""
        return self.episode.rpartition(".")[0] or None

    @property
    def estimated(self) -> bool:
        """Whether what it cost is a guess: an estimate, or the size of what was streamed."""
        return self.actual_source in ESTIMATED_SOURCES and bool(self.actual and self.actual.amount)

    @property
    def ending(self) -> str:
        """How it stands, for people; a cost that is a guess is marked as one."""
        return f"{self.outcome.value} (estimate)" if self.estimated else self.outcome.value

    @property
    def shortfall(self) -> int:
        """What was spent and not charged, in the unit of `actual`."""
        if self.actual is None or self.charged is None:
            return 0
        return max(0, self.actual.amount - self.charged.amount)

    @property
    def open(self) -> bool:
        """Whether the call still holds, or may still get, a reservation."""
        return self.outcome in (Outcome.RESERVING, Outcome.RUNNING)

    @property
    def in_flight(self) -> bool:
        """Whether its end, and so what it used, is not known yet."""
        return self.open and self.lasted is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: raw integers, no objects."""
        plain = attrs.asdict(self, recurse=False)
        for name in ("reserved", "actual", "charged"):
            value = plain[name]
            plain[name] = value and {"unit": Unit(value.unit).value, "amount": value.amount}
        plain["tokens"] = self.tokens and attrs.asdict(self.tokens)
        plain["outcome"] = self.outcome.value
        return {
            **plain,
            "parent": self.parent,
            "shortfall": self.shortfall,
            "estimated": self.estimated,
        }


@attrs.frozen(kw_only=True)
class Receipt:
    """A run's receipt: a snapshot. `str(receipt)` is a table for people."""

    run_id: str
    tenant: str
    calls: tuple[CallReceipt, ...] = ()

    @property
    def charged(self) -> Sums:
        """What the ledger took, by unit."""
        return self._sum(lambda _: "", "charged").get("", Sums())

    @property
    def cost(self) -> Decimal:
        """What the ledger took in US dollars, exactly; other units than money are not in it."""
        return Decimal(self.charged.get(Unit.USD_MICROCENTS, 0)) / MICROCENTS_PER_USD

    @property
    def by_agent(self) -> dict[str, Sums]:
        """What was charged, by agent and unit."""
        return self._sum(lambda call: call.agent, "charged")

    @property
    def by_model(self) -> dict[str, Sums]:
        """What was charged for LLM calls, by model and unit."""
        return self._sum(lambda call: call.name, "charged", only="llm.completion")

    @property
    def shortfall(self) -> Sums:
        """What was spent and not charged, by unit: charged + shortfall = actual."""
        total: Counter[Unit] = Counter()
        for call in self.calls:
            if call.actual is not None and call.shortfall:
                total[Unit(call.actual.unit)] += call.shortfall
        return Sums(total)

    @property
    def estimated(self) -> Sums:
        """How much of what was charged is a guess, by unit."""
        total: Counter[Unit] = Counter()
        for call in self.calls:
            if call.charged is not None and call.estimated:
                total[Unit(call.charged.unit)] += call.charged.amount
        return Sums({unit: n for unit, n in total.items() if n})

    @property
    def tokens(self) -> TokenCount:
        """All tokens that models reported."""
        seen = [call.tokens for call in self.calls if call.tokens is not None]
        return TokenCount(
            input=sum(t.input for t in seen),
            cached=sum(t.cached for t in seen),
            output=sum(t.output for t in seen),
            reasoning=sum(t.reasoning for t in seen),
            cache_write=sum(t.cache_write for t in seen),
            extras=dict(sum((Counter(t.extras) for t in seen), Counter())),
        )

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many calls stand how."""
        return dict(Counter(call.outcome for call in self.calls))

    def _sum(
        self, by: Callable[[CallReceipt], str], which: str, only: str | None = None
    ) -> dict[str, Sums]:
        sums: dict[str, Counter[Unit]] = {}
        for call in self.calls:
            found: Amount | None = getattr(call, which)
            if found is not None and only in (None, call.kind):
                sums.setdefault(by(call), Counter())[Unit(found.unit)] += found.amount
        return {key: Sums(total) for key, total in sums.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "run_id": self.run_id,
            "tenant": self.tenant,
            "calls": [call.to_dict() for call in self.calls],
            "charged": {unit.value: total for unit, total in self.charged.items()},
            "shortfall": {unit.value: total for unit, total in self.shortfall.items()},
            "estimated": {unit.value: total for unit, total in self.estimated.items()},
            "by_agent": _plain(self.by_agent),
            "by_model": _plain(self.by_model),
            "tokens": attrs.asdict(self.tokens),
        }

    def __str__(self) -> str:
        head = ("call", "agent", "what", "reserved", "charged", "tokens", "outcome")
        rows = [head, *(_row(call) for call in self.calls)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
                 for row in rows]  # fmt: skip
        total = f"run {self.run_id} of {self.tenant}: charged {self.charged}"
        if self.estimated:
            total += f", of which {self.estimated} by estimate"
        return "\n".join([total, *table])


def _row(call: CallReceipt) -> tuple[str, ...]:
    depth = call.episode.count(".")
    outcome = call.ending + (f" ({call.reason})" if call.reason else "")
    short = f" short {formatted(Unit(call.actual.unit), call.shortfall)}" if (
        call.actual and call.shortfall) else ""  # fmt: skip
    return (
        "  " * depth + call.id,
        call.agent,
        call.name + (f" #{call.attempt}" if call.attempt > 1 else ""),
        show(call.reserved),
        (show(call.charged) if call.charged else "-") + short,
        f"{call.tokens.input}+{call.tokens.output}" if call.tokens else "-",
        outcome,
    )


def _plain(sums: dict[str, Sums]) -> dict[str, dict[str, int]]:
    return {key: {unit.value: n for unit, n in total.items()} for key, total in sums.items()}


class ReceiptBuilder:
    """The present lines of a run, in the order in which the calls began."""

    def __init__(self) -> None:
        self._lines: dict[str, CallReceipt] = {}

    def put(self, line: CallReceipt) -> None:
        """Write a line, or write it anew."""
        self._lines[line.id] = line

    def lines(self) -> tuple[CallReceipt, ...]:
        """Return a snapshot."""
        return tuple(self._lines.values())

    def receipt(self, run_id: str, tenant: str) -> Receipt:
        """Return the receipt as it stands."""
        return Receipt(run_id=run_id, tenant=tenant, calls=self.lines())
