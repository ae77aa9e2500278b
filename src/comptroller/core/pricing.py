"""What a call of a model costs: a price book over data and arithmetic of `genai-prices`.

Laws of this module:
- Money is exact: `Decimal` from price to sum, rounded up once, at the end, to whole microcents.
- Offline. A charge takes the price of its call's moment, never one of the future; only an estimate
  takes the dearest that can hold while its call lasts.
- An unknown price is None, never 0. A free model is one that somebody declared free:
  `{"ollama:llama3.2": Price("0", "0")}`.
"""

import inspect
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext
from functools import lru_cache
from typing import Any, Protocol

import attrs
from attrs import field, validators
from genai_prices.data_units import unit_data
from genai_prices.types import ModelPrice
from runcycles import Amount, Unit

from comptroller.core import price_catalog
from comptroller.core.price_catalog import Listing
from comptroller.money import MAX_AMOUNT, MICROCENTS_PER_USD, amount

_EXACT = Context(prec=80, rounding=ROUND_CEILING)  # not the thread's, which a program may have set
_DEAREST = 10**12  # keeps `Price("1e999999", ...)` from building a huge integer
_REMEMBERED = 1024  # models per book; one costs a search of the data when it is forgotten
_NO_TIME = timedelta(0)

_UNITS = {name: 0 for name in unit_data if name != "requests"}  # each call is one request
_MODALITIES = ("audio", "image", "video")

_count = [validators.instance_of(int), validators.ge(0)]


def _known_units(_: object, __: object, given: Mapping[str, int]) -> None:
    for name, count in given.items():
        if name not in _UNITS:
            raise ValueError(f"extras: {name!r} is no unit of genai-prices, such as web_searches")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"extras[{name!r}]: {count!r} is not a whole number of at least 0")


@attrs.frozen
class TokenCount:
    """The tokens of one LLM call, as its model reported them, and what else it is billed by.

    Attributes:
        input: all input tokens, `cached` and `cache_write` among them.
        cached: input tokens read from the provider's prompt cache.
        output: all output tokens, `reasoning` among them.
        reasoning: output tokens that were spent on reasoning.
        cache_write: input tokens written to the provider's prompt cache.
        extras: what has a price of its own, by the name that `genai-prices` has for the unit. Of
            the tokens above: `cache_write_1h_tokens`, `input_audio_tokens`, `output_image_tokens`
            and the like. Beside them: `web_searches`, `storage_searches` (in files), ...
    """

    input: int = field(default=0, validator=_count)
    cached: int = field(default=0, validator=_count)
    output: int = field(default=0, validator=_count)
    reasoning: int = field(default=0, validator=_count)
    cache_write: int = field(default=0, validator=_count)
    extras: Mapping[str, int] = field(factory=dict, validator=_known_units, hash=False)

    @property
    def total(self) -> int:
        """Input and output."""
        return self.input + self.output


@attrs.frozen(kw_only=True)
class Billing:
    """What decides the price of a call beside its model and its usage.

    Attributes:
        url: the base URL of the model's client, which tells who sells; None: not known.
        context: the terms that were asked for or granted, as `genai-prices` has them
            (`price_context`): `{"service_tier": "flex"}`.
        at: the moment of the call; None: now.
        lasting: how long the call may last: of the prices of that time, the dearest is meant.
    """

    url: str | None = None
    context: Mapping[str, str] = field(factory=dict, hash=False)
    at: datetime | None = None
    lasting: timedelta = _NO_TIME


PLAIN = Billing()
"""Nothing special: now, as a client of the provider that the model's name says."""


def _units(tokens: TokenCount) -> dict[str, int]:
    """Return how much there is of everything that `genai-prices` has a unit for.

    It refuses parts that exceed their whole, and parts that overlap by nobody knows how much. Here
    a part that exceeds its whole is a provider's slip: it is charged, never subtracted. Where
    tokens of sound or images may be cached ones too, no more are taken for that than must be.
    """
    units = {**_UNITS, **tokens.extras}
    long_lived = units["cache_write_5m_tokens"] + units["cache_write_1h_tokens"]
    units["cache_read_tokens"] = read = tokens.cached
    units["cache_write_tokens"] = written = max(tokens.cache_write, long_lived)

    kinds = {kind: units[f"input_{kind}_tokens"] for kind in _MODALITIES}
    beyond = max(0, read + written + sum(kinds.values()) - tokens.input)
    for kind, count in kinds.items():
        both = f"cache_{kind}_read_tokens"
        units[both] = min(count, read, max(units[both], beyond))
        read, beyond = read - units[both], max(0, beyond - units[both])
    units["input_tokens"] = tokens.input + beyond

    units["output_reasoning_tokens"] = tokens.reasoning
    made = [units[f"output_{kind}_tokens"] for kind in (*_MODALITIES, "citation")]
    units["output_tokens"] = max(tokens.output, tokens.reasoning + sum(made))
    return units


def _microcents(dollars: Decimal) -> int:
    """Round up; at most what the protocol can carry."""
    return min(MAX_AMOUNT, int((dollars * MICROCENTS_PER_USD).to_integral_value(ROUND_CEILING)))


class Prices(Protocol):
    """A price book: this module's, or one of the user's own.

    One whose `price` takes a third argument is given the call's `Billing`, too.
    """

    def price(self, model: str, tokens: TokenCount, /) -> Amount | None:
        """Return what `tokens` of `model` (`provider:model`) cost in USD_MICROCENTS, if known."""


def price_of(book: Prices, model: str, tokens: TokenCount, billing: Billing) -> Amount | None:
    """Ask `book`, which need not care for `billing`."""
    if type(book) is PriceBook:
        return book.price(model, tokens, billing)
    price: Any = book.price
    try:
        inspect.signature(price).bind(model, tokens, billing)
    except (TypeError, ValueError):  # it takes two, or cannot be looked at
        return book.price(model, tokens)
    told: Amount | None = price(model, tokens, billing)
    return told


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


def _per_thousand(given: Decimal | None) -> Decimal | None:
    return None if given is None else given * 1000


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
        cache_write_1h: of input tokens written to the cache for an hour; None: as `cache_write`.
        web_search: USD for each search of the web by the provider; None: nothing.
        file_search: USD for each search in files by the provider; None: nothing.

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
    cache_write_1h: Decimal | None = field(default=None, converter=_dollars_or_none)
    web_search: Decimal | None = field(default=None, converter=_dollars_or_none)
    file_search: Decimal | None = field(default=None, converter=_dollars_or_none)

    def microcents(self, tokens: TokenCount) -> int:
        """Return what a call with `tokens` costs, rounded up, at most the protocol's maximum."""
        with localcontext(_EXACT):
            written = self.input if self.cache_write is None else self.cache_write
            listed = ModelPrice(
                input_mtok=self.input,
                output_mtok=self.output,
                cache_read_mtok=self.cached,
                cache_write_mtok=written,
                cache_write_1h_mtok=self.cache_write_1h,
                output_reasoning_mtok=self.reasoning,
                requests_kcount=_per_thousand(self.request),
                web_searches_kcount=_per_thousand(self.web_search),
                storage_searches_kcount=_per_thousand(self.file_search),
            )
            used = price_catalog.usage(_units(tokens), price_catalog.priced_units(listed))
            return _microcents(listed.calc_price(used)["total_price"])


class PriceBook:
    """The bundled prices, with names of one's own.

    A model is named `provider:model`, as in action names; `model`, `vendor/model` and
    `litellm/vendor/model` are understood too. Who serves it is told by the address of the model's
    client, where the data know that. Elsewhere the name decides; where its provider is not known,
    or does not list the model, the model's own name; a dated name that is not listed is priced as
    the model it dates. What the name says to run locally has no known price.

    Args:
        aliases: a model's name (with or without provider) to the name it is priced as, which is
            looked up in the bundled data, or to a `Price`.
        when: the moment whose prices are meant. None: that of each call.

    Raises:
        TypeError: an alias is neither a name nor a `Price`.
        ValueError: an alias names a model that has no known price.
    """

    def __init__(
        self, aliases: Mapping[str, str | Price] | None = None, when: datetime | None = None
    ) -> None:
        self._when = when
        self._own = {name: self._alias(name, given) for name, given in (aliases or {}).items()}
        self._listing = lru_cache(maxsize=_REMEMBERED)(price_catalog.find)

    def price(self, model: str, tokens: TokenCount, billing: Billing = PLAIN, /) -> Amount | None:
        """Return what `tokens` of `model` cost, in USD_MICROCENTS rounded up; None: unknown.

        Without `billing`: now, as a client of the provider that the name says.
        """
        found = self._declared(model) or self._listing(model, billing.url)
        if found is None:
            return None
        if isinstance(found, Price):
            return amount(Unit.USD_MICROCENTS, found.microcents(tokens))
        count = self._charged(found, tokens, billing)
        return None if count is None else amount(Unit.USD_MICROCENTS, count)

    def is_guess(self, model: str, billing: Billing) -> bool:
        """Whether a model of a private address is priced as the hosted one of the same name.

        It may be the hosted one, behind a gateway, or a local one, which costs nothing.
        """
        if self._declared(model) is not None or not price_catalog.is_private(billing.url):
            return False
        return self._listing(model, billing.url) is not None

    def _declared(self, model: str) -> Listing | Price | None:
        return self._own.get(model) or self._own.get(model.partition(":")[2])

    def _alias(self, name: str, given: object) -> Listing | Price:
        if isinstance(given, Price):
            return given
        if not isinstance(given, str):
            hint = 'a model\'s name, or Price("2.50", "10")'
            raise TypeError(f"prices[{name!r}]: {given!r} is not a price: write {hint}")
        found = price_catalog.find(given)
        if found is None or self._charged(found, TokenCount(), PLAIN) is None:
            hint = 'Price("2.50", "10"), in USD per million tokens'
            raise ValueError(f"prices[{name!r}]: no price is known for {given!r}: write {hint}")
        return found

    def _charged(self, listing: Listing, tokens: TokenCount, billing: Billing) -> int | None:
        units, context = _units(tokens), billing.context
        with localcontext(_EXACT):
            if self._when is None and billing.at is not None:
                total = listing.dearest(units, billing.at, billing.lasting, context)
            else:
                total = listing.total(units, self._when, context)
            return None if total is None else _microcents(total)


def price_book(given: Any) -> Prices:
    """Return the price book that `Policy.prices` stands for.

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
