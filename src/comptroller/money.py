"""Amounts: whole numbers of a unit. 1 USD is 10^8 microcents (protocol, UnitEnum)."""

from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal, InvalidOperation
from math import isfinite

from runcycles import Amount, SignedAmount, Unit

MICROCENTS_PER_USD = 10**8
MAX_AMOUNT = 2**63 - 1
"""The largest amount the protocol carries (int64)."""

_MAX_DIGITS = 40  # far beyond any int64; keeps `usd("1e999999")` from building a huge integer
_MAX_SHOWN = 60  # characters of a wrong value in an error


def usd(dollars: str | int | Decimal) -> Amount:
    """Make an amount of money: `usd("0.05")` is five cents. Fractions of a microcent round up.

    Raises:
        TypeError: a float (or a bool) was given: it cannot hold money exactly.
        ValueError: not a number, negative, or more than the protocol's 64 bits.
    """
    if isinstance(dollars, float) and isfinite(dollars):
        raise TypeError(f'usd({dollars!r}): money must be exact: write usd("{dollars}")')
    if isinstance(dollars, bool) or not isinstance(dollars, str | int | Decimal):
        given = _shown(dollars)
        raise TypeError(f'usd({given}): give a string such as usd("0.05"), an int or a Decimal')
    return amount(Unit.USD_MICROCENTS, _microcents(dollars), shown=f"usd({_shown(dollars)})")


def _microcents(dollars: str | int | Decimal) -> int:
    shown = f"usd({_shown(dollars)})"
    try:
        exact = Decimal(dollars)
    except InvalidOperation:
        raise ValueError(f'{shown}: not an amount: write it like usd("0.05")') from None
    if not exact.is_finite() or (exact and exact.adjusted() > _MAX_DIGITS):
        raise ValueError(f"{shown}: not an amount that the protocol can carry")
    if exact < 0:
        raise ValueError(f"{shown}: an amount is at least 0")
    # exact whatever the caller's own decimal context says, and however many digits were given
    digits = len(exact.as_tuple().digits) + _MAX_DIGITS
    ample = Context(prec=digits, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
    return int(ample.multiply(exact, Decimal(MICROCENTS_PER_USD)).to_integral_value(ROUND_CEILING))


def _shown(given: object) -> str:
    """Show a wrong value in an error's one line: as written, unless it is long."""
    if isinstance(given, int) and abs(given) > 10**_MAX_DIGITS:
        return f"an int of {given.bit_length()} bits"  # repr refuses the longest ones
    text = repr(given)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def tokens(count: int) -> Amount:
    """Make an amount of tokens. Raise TypeError for anything but an int, ValueError below 0."""
    return amount(Unit.TOKENS, count)


def risk_points(count: int) -> Amount:
    """Make an amount of risk points, the unit of tool budgets. Raises as `tokens`."""
    return amount(Unit.RISK_POINTS, count)


def amount(unit: Unit, count: int, *, shown: str | None = None) -> Amount:
    """`count` of `unit`, checked. `shown` is how an error names what was given.

    Raises:
        TypeError: not an int (a bool and a float are not).
        ValueError: negative, or more than the protocol's 64 bits.
    """
    shown = shown or f"{unit.value.lower()}({_shown(count)})"
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{shown}: amounts are whole numbers: write an int")
    if not 0 <= count <= MAX_AMOUNT:
        raise ValueError(
            f"{shown}: an amount is at least 0 and at most {formatted(unit, MAX_AMOUNT)}"
        )
    return Amount(unit=unit, amount=count)


def checked(given: object) -> Amount:
    """`given`, if it is an amount that a ledger takes: what a function of a user's returned.

    Raises:
        TypeError: no amount, or not of whole units.
        ValueError: an unknown unit, negative, or more than the protocol's 64 bits.
    """
    if not isinstance(given, Amount):
        raise TypeError(f'{_shown(given)} is no amount: return one such as usd("0.05")')
    return amount(Unit(given.unit), given.amount)


def formatted(unit: Unit, count: int) -> str:
    """How people read `count` of `unit`: `$0.05`, `5,000 tokens`. A negative count is a debt."""
    if unit is Unit.USD_MICROCENTS:
        whole, _, cents = dollars(abs(count)).partition(".")
        return f"{'-' if count < 0 else ''}${int(whole):,}.{cents}"
    name = unit.value.lower().replace("_", " ")
    return f"{count:,} {name.removesuffix('s') if abs(count) == 1 else name}"


def dollars(microcents: int) -> str:
    """Write an exact decimal number, as programs read it: `0.0328`, `-1234.50`."""
    whole, rest = divmod(abs(microcents), MICROCENTS_PER_USD)
    cents = f"{rest:08d}".rstrip("0").ljust(2, "0")
    return f"{'-' if microcents < 0 else ''}{whole}.{cents}"


def show(given: Amount | SignedAmount) -> str:
    """How people read an amount: `$0.05`, `5,000 tokens`. What remains may be a debt: `-$0.05`."""
    return formatted(given.unit, given.amount)


class Sums(dict[Unit, int]):
    """Sums by unit, in whole numbers of each (10^8 microcents are 1 USD). `str`: for people."""

    def __str__(self) -> str:
        return ", ".join(formatted(unit, count) for unit, count in self.items()) or "nothing"
