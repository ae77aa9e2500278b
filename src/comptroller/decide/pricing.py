"""What a model's tokens cost: a price book over the bundled data of `genai-prices`.

Laws of this module:
- Money is exact: `Decimal` from price to sum, rounded up once, at the end, to whole microcents.
- Offline and without a clock: the same book gives the same tokens the same price, always.
- An unknown price is None, never 0. A free model is one that somebody declared free:
  `{"ollama:llama3.2": Price("0", "0")}`.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext
from functools import lru_cache
from typing import Any, Protocol

import attrs
from attrs import field, validators
from genai_prices import Usage, calc_price
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices
from runcycles import Amount, Unit

from comptroller.money import MICROCENTS_PER_USD, MOST, amount

_EXACT = Context(prec=80, rounding=ROUND_CEILING)  # not the thread's, which a program may have set
_MICROCENTS_PER_TOKEN = Decimal(MICROCENTS_PER_USD) / 10**6  # of a price per million tokens
_DEAREST = 10**12  # keeps `Price("1e999999", ...)` from building a huge integer
_LAST_DAY = datetime(9999, 1, 1, tzinfo=UTC)
_REMEMBERED = 1024  # model names per book; a name costs a search of the data when it is forgotten
_DATE = re.compile(r"[-@]20\d\d-?\d\d-?\d\d$")


_count = [validators.instance_of(int), validators.ge(0)]


@attrs.frozen
class TokenCount:
    """The tokens of one LLM call, as its model reported them.

    Attributes:
        input: all input tokens, `cached` and `cache_write` among them.
        cached: input tokens read from the provider's prompt cache.
        output: all output tokens, `reasoning` among them.
        reasoning: output tokens that were spent on reasoning.
        cache_write: input tokens written to the provider's prompt cache.
    """

    input: int = field(default=0, validator=_count)
    cached: int = field(default=0, validator=_count)
    output: int = field(default=0, validator=_count)
    reasoning: int = field(default=0, validator=_count)
    cache_write: int = field(default=0, validator=_count)

    @property
    def total(self) -> int:
        """Input and output."""
        return self.input + self.output


class Prices(Protocol):
    """A price book: this module's, or one of the user's own."""

    def price(self, model: str, tokens: TokenCount, /) -> Amount | None:
        """What `tokens` of `model` (`provider:model`) cost, in USD_MICROCENTS; None: unknown."""


def _dollars(given: str | int | Decimal) -> Decimal:
    if isinstance(given, bool | float):
        raise TypeError(f'Price({given!r}): prices must be exact: write "{given}"')
    if not isinstance(given, str | int | Decimal):
        raise TypeError(f'Price({given!r}): give a string such as "2.50", an int or a Decimal')
    try:
        exact = Decimal(given)
    except InvalidOperation:
        raise ValueError(f'Price({given!r}): not a price: write it like "2.50"') from None
    if not exact.is_finite() or exact < 0 or exact > _DEAREST:
        most = f"at least 0 and at most {_DEAREST:,}"
        raise ValueError(f'Price({given!r}): a price is {most}: write it like "2.50"')
    return exact


def _dollars_or_none(given: str | int | Decimal | None) -> Decimal | None:
    return None if given is None else _dollars(given)


def _either(special: Decimal | None, plain: Decimal) -> Decimal:
    return plain if special is None else special


@attrs.frozen
class Price:
    """A model's price, in USD per million tokens: strings, ints or Decimals.

    Attributes:
        input: of input tokens.
        output: of output tokens.
        cached: of input tokens read from the prompt cache; None: as `input`.
        cache_write: of input tokens written to the prompt cache; None: as `input`.
        reasoning: of reasoning tokens; None: as `output`.
        request: USD for each call, whatever its tokens.

    Raises:
        TypeError: a float (or a bool) was given: it cannot hold money exactly.
        ValueError: not a number, negative, or beyond all reason.
    """

    input: Decimal = field(converter=_dollars)
    output: Decimal = field(converter=_dollars)
    cached: Decimal | None = field(default=None, converter=_dollars_or_none)
    cache_write: Decimal | None = field(default=None, converter=_dollars_or_none)
    reasoning: Decimal | None = field(default=None, converter=_dollars_or_none)
    request: Decimal = field(default=Decimal(0), converter=_dollars)

    def microcents(self, tokens: TokenCount) -> int:
        """What a call with `tokens` costs, rounded up; at most what the protocol can carry."""
        # A part that exceeds its whole is a provider's slip: it is charged, never subtracted.
        plain = max(0, tokens.input - tokens.cached - tokens.cache_write)
        spoken = max(0, tokens.output - tokens.reasoning)
        with localcontext(_EXACT):
            by_token = plain * self.input + spoken * self.output
            by_token += tokens.cached * _either(self.cached, self.input)
            by_token += tokens.cache_write * _either(self.cache_write, self.input)
            by_token += tokens.reasoning * _either(self.reasoning, self.output)
            exact = by_token * _MICROCENTS_PER_TOKEN + self.request * MICROCENTS_PER_USD
            return min(MOST, int(exact.to_integral_value()))


Schedule = tuple[tuple[int, Price], ...]
"""(more input tokens than this, the price of the whole call): the longest context first."""


class PriceBook:
    """The bundled prices, with names of one's own.

    A model is named `provider:model`, as in action names; `model`, `vendor/model` and
    `litellm/vendor/model` are understood too. Where the provider is not known, or does not list
    the model, the model's own name decides; a dated name that is not listed is priced as the
    model it dates.

    Args:
        aliases: a model's name (with or without provider) to the name it is priced as, which is
            looked up in the bundled data, or to a `Price`.
        when: the moment whose prices are meant. None: the last prices that the data know of, and
            those of the dearest hour where prices change within a day, since a price that is too
            low lets a budget be overspent.

    Raises:
        TypeError: an alias is neither a name nor a `Price`.
        ValueError: an alias names a model that has no known price.
    """

    def __init__(
        self, aliases: Mapping[str, str | Price] | None = None, when: datetime | None = None
    ) -> None:
        self._when = when
        self._own = {name: self._alias(name, given) for name, given in (aliases or {}).items()}
        self._schedule = lru_cache(maxsize=_REMEMBERED)(self._look_up)

    def price(self, model: str, tokens: TokenCount, /) -> Amount | None:
        """What `tokens` of `model` cost, in USD_MICROCENTS rounded up; None: unknown."""
        for more_than, price in self._schedule(model) or ():
            if tokens.input > more_than:
                return amount(Unit.USD_MICROCENTS, price.microcents(tokens))
        return None

    def _alias(self, name: str, given: object) -> Schedule:
        if isinstance(given, Price):
            return ((-1, given),)
        if not isinstance(given, str):
            hint = 'a model\'s name, or Price("2.50", "10")'
            raise TypeError(f"prices[{name!r}]: {given!r} is not a price: write {hint}")
        if (found := _bundled(given, self._when)) is None:
            hint = 'Price("2.50", "10"), in USD per million tokens'
            raise ValueError(f"prices[{name!r}]: no price is known for {given!r}: write {hint}")
        return found

    def _look_up(self, model: str) -> Schedule | None:
        own = self._own.get(model) or self._own.get(model.partition(":")[2])
        return own or _bundled(model, self._when)


def price_book(given: Any) -> Prices:
    """The price book that `Policy.prices` stands for.

    Args:
        given: None (the bundled prices), a mapping of aliases (see `PriceBook`), or any object
            with a method `price(model, tokens)`.

    Raises:
        TypeError: none of these.
        ValueError: an alias names a model that has no known price.
    """
    if given is None or isinstance(given, Mapping):
        return PriceBook(given)
    if callable(getattr(given, "price", None)):
        book: Prices = given
        return book
    hint = '{"my-model": "openai:gpt-4.1"} or {"my-model": Price("2.50", "10")}'
    raise TypeError(f"prices: {given!r} is not a price book: write {hint}")


def _bundled(name: str, when: datetime | None) -> Schedule | None:
    """What the bundled data say of `name`."""
    for provider, ref in _readings(name):
        try:
            found = calc_price(
                Usage(), ref, provider_id=provider, genai_request_timestamp=when or _LAST_DAY
            )
        except LookupError:
            continue
        return _schedule(_prices(found.model, when))
    return None


def _readings(name: str) -> Iterator[tuple[str | None, str]]:
    """(provider, model) as `name` may mean it, the likeliest first."""
    provider, colon, ref = name.partition(":")
    if not colon or "/" in provider:  # no provider: the colon is part of the model's own name
        provider, ref = "", name
    by_vendor: list[tuple[str | None, str]] = [(provider, ref)] if provider else []
    by_name: list[tuple[str | None, str]] = [(None, ref)]
    while "/" in ref:  # the outermost is who sells it: router, gateway, provider, then maker
        vendor, _, ref = ref.partition("/")
        by_vendor.append((vendor, ref))
        by_name.append((None, ref))
    readings = by_vendor + by_name
    yield from readings
    yield from ((by, undated) for by, ref in readings if (undated := _DATE.sub("", ref)) != ref)


def _prices(model: ModelInfo, when: datetime | None) -> ModelPrice:
    """The prices of `model` at `when`; without it the last ones, at their dearest hour."""
    if when is not None or isinstance(model.prices, ModelPrice):
        return model.get_prices(when or _LAST_DAY)
    half_hours = (_LAST_DAY + timedelta(minutes=30 * n) for n in range(48))
    return max(
        (model.get_prices(instant) for instant in half_hours),
        key=lambda prices: _at(prices.input_mtok, 0) + _at(prices.output_mtok, 0),
    )


def _schedule(prices: ModelPrice) -> Schedule | None:
    """`prices` by length of context. None unless input and output are both priced."""
    if prices.input_mtok is None or prices.output_mtok is None:
        return None  # priced by the second or the page, or listed without a price
    starts = {
        tier.start
        for price in vars(prices).values()
        if isinstance(price, TieredPrices)
        for tier in price.tiers
    }
    return tuple(
        (start, _price(prices, start + 1)) for start in sorted({-1, *starts}, reverse=True)
    )


def _price(prices: ModelPrice, input_tokens: int) -> Price:
    def rate(given: Decimal | TieredPrices | None) -> Decimal | None:
        return None if given is None else _at(given, input_tokens)

    return Price(
        input=_at(prices.input_mtok, input_tokens),
        output=_at(prices.output_mtok, input_tokens),
        cached=rate(prices.cache_read_mtok),
        cache_write=rate(prices.cache_write_mtok),
        reasoning=rate(prices.output_reasoning_mtok),
        request=_at(prices.requests_kcount, input_tokens) / 1000,
    )


def _at(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal:
    """The rate that holds for a call with so many input tokens; 0 where there is none."""
    if price is None:
        return Decimal(0)
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base
