"""Amounts: whole numbers of a unit. 1 USD is 10^8 microcents (protocol, UnitEnum)."""

from decimal import ROUND_CEILING, Decimal, InvalidOperation

from runcycles import Amount, Unit

MICROCENTS_PER_USD = 10**8
MOST = 2**63 - 1
"""The largest amount the protocol carries (int64)."""

_MOST_DIGITS = 40  # far beyond any int64; keeps `usd("1e999999")` from building a huge integer


def usd(dollars: str | int | Decimal) -> Amount:
    """An amount of money: `usd("0.05")` is five cents. Fractions of a microcent are rounded up.

    Raises:
        TypeError: a float (or a bool) was given: it cannot hold money exactly.
        ValueError: not a number, negative, or more than the protocol's 64 bits.
    """
    if isinstance(dollars, bool | float):
        raise TypeError(f'usd({dollars!r}): money must be exact: write usd("{dollars}")')
    if not isinstance(dollars, str | int | Decimal):
        raise TypeError(f'usd({dollars!r}): give a string such as usd("0.05"), an int or a Decimal')
    try:
        exact = Decimal(dollars)
    except InvalidOperation:
        raise ValueError(f'usd({dollars!r}): not an amount: write it like usd("0.05")') from None
    if not exact.is_finite() or exact.adjusted() > _MOST_DIGITS:
        raise ValueError(f"usd({dollars!r}): not an amount that the protocol can carry")
    microcents = int((exact * MICROCENTS_PER_USD).to_integral_value(ROUND_CEILING))
    return amount(Unit.USD_MICROCENTS, microcents, shown=f"usd({dollars!r})")


def tokens(count: int) -> Amount:
    """An amount of tokens. Raises TypeError for anything but an int, ValueError below 0."""
    return amount(Unit.TOKENS, count)


def risk_points(count: int) -> Amount:
    """An amount of risk points, the unit of tool budgets. Raises as `tokens`."""
    return amount(Unit.RISK_POINTS, count)


def amount(unit: Unit, count: int, *, shown: str | None = None) -> Amount:
    """`count` of `unit`, checked. `shown` is how an error names what was given.

    Raises:
        TypeError: not an int (a bool and a float are not).
        ValueError: negative, or more than the protocol's 64 bits.
    """
    shown = shown or f"{unit.value.lower()}({count!r})"
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{shown}: amounts are whole numbers: write an int")
    if not 0 <= count <= MOST:
        raise ValueError(f"{shown}: an amount is at least 0 and at most {MOST}")
    return Amount(unit=unit, amount=count)


def formatted(unit: Unit, count: int) -> str:
    """How people read `count` of `unit`: `$0.05`, `5,000 tokens`. A negative count is a debt."""
    if unit is Unit.USD_MICROCENTS:
        sign, dollars = "-" if count < 0 else "", Decimal(abs(count)) / MICROCENTS_PER_USD
        cents = dollars.quantize(Decimal("0.01"))
        return f"{sign}${cents if cents == dollars else dollars.normalize():,f}"
    return f"{count:,} {unit.value.lower().replace('_', ' ')}"


def show(given: Amount) -> str:
    """`formatted` for an amount of the protocol."""
    return formatted(given.unit, given.amount)
