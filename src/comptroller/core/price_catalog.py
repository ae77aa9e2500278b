"""Which listing of `genai-prices` a model stands for, by its name and the address that serves it.

Laws of this module:
- An address that the data know decides: what its provider does not list has no known price.
- Elsewhere the name decides, but for names and addresses of software that runs models locally:
  those never take the price of a hosted model of the same name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Final

import attrs
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelInfo, ModelPrice, Provider

_DATE = re.compile(r"[-@]20\d\d-?\d\d-?\d\d$")
_ADDRESS = re.compile(r"\w+://(?:[^/@]*@)?(?P<host>\[[^\]]*\]|[^/:?#]+)(?::(?P<port>\d+))?")
_FREE = ":free"  # OpenRouter's suffix: the same model by another host, at no charge

_LOCAL_RUNTIMES: Final = frozenset(
    {
        "docker_model_runner", "gpt4all", "hosted_vllm", "lemonade", "llama.cpp", "llama_cpp",
        "llamacpp", "llamafile", "lm-studio", "lm_studio", "lmstudio", "local", "localai", "mlx",
        "ollama", "ollama_chat", "oobabooga", "petals", "sglang", "tgi", "vllm", "xinference",
    }
)  # fmt: skip
"""The prefixes that LiteLLM, any-llm and people write before what they run themselves."""
_LOCAL_PORTS: Final = frozenset({"11434", "1234"})
"""The default ports of Ollama and of LM Studio. Others (8000, 8080) are everybody's."""
_LOCAL_TAG = re.compile(
    r":(?:latest|instruct|chat|text|code|fp16|q\d|(?:\d+x)?e?\d+(?:\.\d+)?[bm])(?:[-_][\w.-]+)?$"
)
"""Ollama's tags: `:7b`, `:8x7b`, `:0.6b`, `:20b-instruct-q4_K_M`, `:latest`, `:q4_0`."""
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".svc", ".home.arpa")

_QUARTER = timedelta(minutes=15)  # prices change at midnight, or at a quarter of an hour


_UNIT_OF_PRICE = {unit["price_key"]: name for name, unit in unit_data.items()}
_PER_CALL = "requests"  # counted by the library: each call is one


def priced_units(*prices: ModelPrice) -> frozenset[str]:
    """Return the units that any of `prices` has a price for."""
    keys = {key for each in prices for key, price in vars(each).items() if price is not None}
    return frozenset(_UNIT_OF_PRICE[key] for key in keys & _UNIT_OF_PRICE.keys()) - {_PER_CALL}


def usage(units: Mapping[str, int], priced: Iterable[str]) -> Usage:
    """Return what is to be priced, and no more: the library looks at each unit closely."""
    return Usage(**{name: units[name] for name in priced})


@attrs.frozen(eq=False)
class Listing:
    """A model as one provider sells it."""

    provider: Provider
    model: ModelInfo
    _units: frozenset[str] = attrs.field(init=False)

    @_units.default
    def _all_units(self) -> frozenset[str]:
        prices = self.model.prices
        always = [prices] if isinstance(prices, ModelPrice) else [each.prices for each in prices]
        sometimes = [each.prices for each in self.model.price_variants or ()]
        return priced_units(*always, *sometimes)

    def total(
        self, units: Mapping[str, int], at: datetime | None, context: Mapping[str, str]
    ) -> Decimal | None:
        """Return the price of `units` in USD, made at `at` (None: now) in that context.

        None where the model is not sold by input and output tokens: one that is priced by the
        second or the page, or is listed without a price.
        """
        found = self.model.calc_price(
            usage(units, self._units),
            self.provider,
            genai_request_timestamp=at,
            price_context=context,
        )
        price = found.model_price
        if price.input_mtok is None or price.output_mtok is None:
            return None
        return found.total_price

    def dearest(
        self,
        units: Mapping[str, int],
        begin: datetime,
        lasting: timedelta,
        context: Mapping[str, str],
    ) -> Decimal | None:
        """Return the highest `total` of the time from `begin` on."""
        marks = _marks(begin, lasting) if self._varies else iter((begin,))
        totals = (self.total(units, mark, context) for mark in marks)
        return max((total for total in totals if total is not None), default=None)

    @property
    def _varies(self) -> bool:
        """Whether its price depends on the time."""
        variants = self.model.price_variants or ()
        return isinstance(self.model.prices, list) or any(each.constraint for each in variants)


def _marks(begin: datetime, lasting: timedelta) -> Iterator[datetime]:
    """Yield the moments at which another price may begin to hold."""
    yield begin
    mark = begin - timedelta(
        minutes=begin.minute % 15, seconds=begin.second, microseconds=begin.microsecond
    )
    while (mark := mark + _QUARTER) <= begin + lasting:
        yield mark


def find(name: str, url: str | None = None) -> Listing | None:
    """Return the listing of the model `name` (`provider:model`), served at `url`."""
    if url is not None and (provider := _at_address(url)) is not None:
        refs = dict.fromkeys(ref for _, ref in _readings(name))
        found = (_listed(ref, provider=provider) for ref in refs)
    elif _is_local(name, url):
        return None
    else:
        found = (_listed(ref, provider_id=by) for by, ref in _readings(name))
    return next((listing for listing in found if listing is not None), None)


def _at_address(url: str) -> Provider | None:
    try:
        return get_snapshot().find_provider(None, None, url)
    except LookupError:
        return None


def _listed(
    ref: str, *, provider: Provider | None = None, provider_id: str | None = None
) -> Listing | None:
    try:
        found = get_snapshot().find_provider_model(ref, provider, provider_id, None)
    except LookupError:
        return None
    listing = Listing(*found)
    if ref.endswith(_FREE) and not listing.model.id.endswith(_FREE):
        return None  # it matched the model that costs
    return listing


def _parts(name: str) -> tuple[str, str]:
    """Split `provider:model`; the provider is empty where none is named."""
    provider, colon, ref = name.partition(":")
    return (provider, ref) if colon and "/" not in provider else ("", name)


def _readings(name: str) -> Iterator[tuple[str | None, str]]:
    """Yield (provider, model) as `name` may mean it, the likeliest first."""
    provider, ref = _parts(name)
    by_vendor: list[tuple[str | None, str]] = [(provider, ref)] if provider else []
    by_name: list[tuple[str | None, str]] = [(None, ref)]
    while "/" in ref:  # the outermost is who sells it: router, gateway, provider, then maker
        vendor, _, ref = ref.partition("/")
        by_vendor.append((vendor, ref))
        by_name.append((None, ref))
    readings = by_vendor + by_name
    yield from readings
    yield from ((by, undated) for by, ref in readings if (undated := _DATE.sub("", ref)) != ref)


def _is_local(name: str, url: str | None) -> bool:
    """Whether name or address are those of software that runs models where it is."""
    *prefixes, _ = re.split("[:/]", name.lower())
    if not _LOCAL_RUNTIMES.isdisjoint(prefixes) or _LOCAL_TAG.search(_parts(name.lower())[1]):
        return True
    address = _ADDRESS.match(url or "")
    return address is not None and address["port"] in _LOCAL_PORTS and is_private(url)


def is_private(url: str | None) -> bool:
    """Whether `url` is of this machine or of a private network: a local model's, or a gateway's."""
    address = _ADDRESS.match(url or "")
    if address is None:
        return False
    host = address["host"].strip("[]").lower().rstrip(".")
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_SUFFIXES)
