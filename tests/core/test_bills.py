"""A call is charged what `genai-prices` itself says of it, for every model that has a price.

The rule: the arithmetic is the library's own (`calc_price`), of the call's moment and terms,
rounded up once to whole microcents.
"""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import ROUND_CEILING

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers

from comptroller.core.pricing import Billing, PriceBook, TokenCount

pytestmark = pytest.mark.alike

NOW = datetime(2026, 12, 1, 12, 7, tzinfo=UTC)
MOMENTS = [datetime(2025, 7, 1, 20, tzinfo=UTC), NOW, datetime(2027, 1, 1, 2, 30, tzinfo=UTC)]
FLEX, PRIORITY = {"service_tier": "flex"}, {"service_tier": "priority"}

BILLS = {  # as we count it; as the library wants it; the terms
    "plain": (
        TokenCount(input=1_003, output=77),
        Usage(input_tokens=1_003, output_tokens=77),
        [{}],
    ),
    "cached": (
        TokenCount(
            input=300_007, cached=701, cache_write=909, output=13,
            extras={"cache_write_1h_tokens": 89},
        ),
        Usage(
            input_tokens=300_007, cache_read_tokens=701, cache_write_tokens=909,
            cache_write_1h_tokens=89, output_tokens=13,
        ),
        [{}],
    ),
    "reasoning": (
        TokenCount(input=19, output=1_237, reasoning=321),
        Usage(input_tokens=19, output_tokens=1_237, output_reasoning_tokens=321),
        [{}],
    ),
    "searches": (
        TokenCount(input=501, output=43, extras={"web_searches": 5, "storage_searches": 3}),
        Usage(input_tokens=501, output_tokens=43, web_searches=5, storage_searches=3),
        [{}],
    ),
    "tiers": (
        TokenCount(input=2_001, cached=999, output=59),
        Usage(input_tokens=2_001, cache_read_tokens=999, output_tokens=59),
        [FLEX, PRIORITY, {"speed": "fast"}],
    ),
}  # fmt: skip


def priced():
    """Every model that has a price for input and output, with its provider."""
    for provider in providers:
        for model in provider.models:
            with suppress(LookupError):
                price = calc_price(
                    Usage(), model.id, provider_id=provider.id, genai_request_timestamp=NOW
                ).model_price
                if price.input_mtok is not None and price.output_mtok is not None:
                    yield provider, model


PRICED = list(priced())


def differing(models, at, kinds=tuple(BILLS)):
    """Where we and the library do not agree: the model, its bill, what we charge, what is owed."""
    book = PriceBook()
    for provider, model in models:
        for tokens, usage, contexts in (BILLS[kind] for kind in kinds):
            for context in contexts:
                dollars = calc_price(
                    usage, model.id, provider_id=provider.id,
                    genai_request_timestamp=at, price_context=context,
                ).total_price  # fmt: skip
                owed = int((dollars * 10**8).to_integral_value(ROUND_CEILING))
                name = f"{provider.id}:{model.id}"
                charged = book.price(name, tokens, Billing(at=at, context=context))
                if charged is None or charged.amount != owed:
                    yield name, usage, context, charged and charged.amount, owed


@pytest.mark.parametrize("kind", BILLS)
def test_every_model_is_charged_what_the_library_calculates(kind):
    assert list(differing(PRICED, NOW, [kind])) == []
    assert len(PRICED) > 1_800


@pytest.mark.parametrize("at", MOMENTS, ids=str)
def test_a_price_that_changes_is_the_one_of_its_moment(at):
    changing = [(one, model) for one, model in PRICED if isinstance(model.prices, list)]
    assert list(differing(changing, at)) == []
    assert len(changing) > 100
