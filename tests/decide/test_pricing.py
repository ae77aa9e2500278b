"""Prices: exact, offline, timeless; the bundled data's own sums are reproduced model by model."""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, localcontext
from math import ceil

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st
from runcycles import Unit

from comptroller.decide.pricing import Price, PriceBook, TokenCount, price_book
from comptroller.money import MOST, usd

LONG_AGO = datetime(2025, 7, 1, 12, tzinfo=UTC)
SOME = TokenCount(input=1_000, cached=100, output=10, reasoning=4)
PLAIN = TokenCount(input=1_000_000, output=1_000_000)


def microcents(book, model, tokens=SOME):
    priced = book.price(model, tokens)
    assert priced is not None, f"{model} has no price"
    assert priced.unit is Unit.USD_MICROCENTS
    return priced.amount


@pytest.fixture(scope="module")
def book():
    return PriceBook()


@pytest.fixture(scope="module")
def then():
    """Prices of a fixed moment, so that their figures can be written down."""
    return PriceBook(when=LONG_AGO)


# -- token counts


def test_the_total_counts_cached_and_reasoning_tokens_once():
    assert SOME.total == 1_010


@pytest.mark.parametrize("wrong", [{"input": -1}, {"output": 1.5}, {"cached": "3"}])
def test_a_token_count_is_whole_and_not_negative(wrong):
    with pytest.raises((TypeError, ValueError)):
        TokenCount(**wrong)


# -- the bundled prices


def test_a_call_costs_its_input_its_cached_input_and_its_output(then):
    # gpt-4.1: $2, $0.50 and $8 per million
    assert microcents(then, "openai:gpt-4.1") == 900 * 200 + 100 * 50 + 10 * 800


def test_cache_writes_have_their_own_price(then):
    # claude-sonnet-4: $3 in, $3.75 written to the cache
    written = TokenCount(input=1_000, cache_write=400)
    assert microcents(then, "anthropic:claude-sonnet-4-0", written) == 600 * 300 + 400 * 375


def test_a_long_context_is_priced_by_its_own_tier(then):
    # gemini-2.5-pro: above 200 000 input tokens every token costs the higher rate
    short = microcents(then, "google:gemini-2.5-pro", TokenCount(input=200_000, output=10))
    longer = microcents(then, "google:gemini-2.5-pro", TokenCount(input=200_001, output=10))
    assert short == 200_000 * 125 + 10 * 1_000
    assert longer == 200_001 * 250 + 10 * 1_500


def test_a_price_per_request_is_charged_with_every_call(then):
    sonar = microcents(then, "perplexity:sonar", TokenCount())
    assert sonar == usd("0.012").amount


def _by_name(usage):
    """Every model that the library finds by provider and name, with its price of `usage`."""
    for provider in providers:
        for model in provider.models:
            with suppress(LookupError):
                yield (
                    f"{provider.id}:{model.id}",
                    calc_price(
                        usage,
                        model.id,
                        provider_id=provider.id,
                        genai_request_timestamp=LONG_AGO,
                    ).total_price,
                )


def test_every_model_costs_what_the_data_say(then):
    """Our sum, made for speed, is the library's own for every model whose price is by token."""
    tokens = TokenCount(input=300_000, cached=700, cache_write=90, output=1_234, reasoning=321)
    usage = Usage(
        input_tokens=300_000,
        cache_read_tokens=700,
        cache_write_tokens=90,
        output_tokens=1_234,
        output_reasoning_tokens=321,
    )
    wrong, compared = [], 0
    for name, theirs in _by_name(usage):
        if ours := then.price(name, tokens):
            compared += 1
            if ours.amount != (theirs * 10**8).to_integral_value(ROUND_CEILING):
                wrong.append((name, ours.amount, theirs))
    assert compared > 500
    assert wrong == []


# -- names


@pytest.mark.parametrize(
    ("name", "priced_as"),
    [
        ("gpt-4.1", "openai:gpt-4.1"),
        ("openai:gpt-4.1-2025-04-14", "openai:gpt-4.1"),
        ("openai:gpt-4.1-2031-01-01", "openai:gpt-4.1"),
        ("openai:gpt-4.1-20310101", "openai:gpt-4.1"),
        ("OpenAI:GPT-4.1", "openai:gpt-4.1"),
        ("some-gateway:gpt-4.1", "openai:gpt-4.1"),
        ("openai:claude-sonnet-4-0", "anthropic:claude-sonnet-4-0"),
        ("anthropic/claude-sonnet-4-20250514", "anthropic:claude-sonnet-4-0"),
        ("litellm/anthropic/claude-sonnet-4-20250514", "anthropic:claude-sonnet-4-0"),
        ("litellm:anthropic/claude-sonnet-4-20250514", "anthropic:claude-sonnet-4-0"),
        ("openai:litellm/anthropic/claude-sonnet-4-20250514", "anthropic:claude-sonnet-4-0"),
        ("any-llm/anthropic/claude-sonnet-4-20250514", "anthropic:claude-sonnet-4-0"),
        ("some-gateway/gpt-4.1", "openai:gpt-4.1"),
        ("some-gateway/openai/gpt-4.1", "openai:gpt-4.1"),
        ("openrouter/anthropic/claude-sonnet-4", "openrouter:anthropic/claude-sonnet-4"),
        ("litellm/gemini/gemini-2.5-pro", "google:gemini-2.5-pro"),
        (
            "litellm/bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0",
            "bedrock:us.anthropic.claude-sonnet-4-20250514-v1:0",
        ),
    ],
)
def test_a_model_is_recognised_by_the_names_it_goes_by(book, name, priced_as):
    assert microcents(book, name) == microcents(book, priced_as)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "openai:",
        "openai:scripted",
        "scripted",
        "ollama:llama3.2",
        "llama3.2:1b",
        "openai:ft:gpt-4.1:acme::abc",  # a fine-tuned model costs more than the one it is made of
    ],
)
def test_an_unknown_model_has_no_price(book, name):
    assert book.price(name, SOME) is None


def test_a_model_whose_output_has_no_price_is_unknown(book):
    """An embedding, a transcription by the second, a model that is listed without a price."""
    assert book.price("openai:text-embedding-3-small", SOME) is None
    assert book.price("groq:whisper-large-v3", SOME) is None
    assert book.price("github-copilot:gpt-4o", SOME) is None


# -- time


def test_without_a_moment_the_dearest_hour_counts(book):
    """deepseek-chat has been cheaper by night: a budget is not built on that."""
    noon = PriceBook(when=datetime(2026, 1, 1, 12, tzinfo=UTC))
    night = PriceBook(when=datetime(2026, 1, 1, 20, tzinfo=UTC))
    model = "deepseek:deepseek-chat"
    assert microcents(night, model) < microcents(noon, model) == microcents(book, model)


def test_a_moment_has_the_prices_of_its_time():
    o3 = [PriceBook(when=datetime(2025, month, 1, tzinfo=UTC)) for month in (1, 12)]
    before, after = (microcents(book, "openai:o3") for book in o3)
    assert before > after  # o3 became cheaper in June 2025


# -- one's own prices


def test_an_alias_is_priced_as_the_model_it_names(book):
    ours = PriceBook({"acme-large": "openai:gpt-4.1", "azure:prod": "gpt-4.1"})
    assert microcents(ours, "acme-large") == microcents(book, "openai:gpt-4.1")
    assert microcents(ours, "openai:acme-large") == microcents(book, "openai:gpt-4.1")
    assert microcents(ours, "azure:prod") == microcents(book, "openai:gpt-4.1")
    assert ours.price("openai:prod", SOME) is None


def test_a_price_of_ones_own_goes_before_the_bundled_one():
    ours = PriceBook({"openai:gpt-4.1": Price("3", 9, cached=Decimal("0.30"))})
    assert microcents(ours, "openai:gpt-4.1") == 900 * 300 + 100 * 30 + 10 * 900


def test_a_free_model_costs_nothing_and_that_is_known():
    free = PriceBook({"ollama:llama3.2": Price("0", "0")})
    assert microcents(free, "ollama:llama3.2", PLAIN) == 0


def test_a_price_that_says_nothing_of_the_cache_charges_it_as_input():
    price = Price("2", "8")
    assert price.microcents(SOME) == 1_000 * 200 + 10 * 800


def test_a_float_price_is_refused_and_the_string_to_write_is_shown():
    with pytest.raises(TypeError, match=r'write "0\.15"'):
        Price(0.15, "0.60")


@pytest.mark.parametrize("wrong", ["-1", "cheap", "NaN", "Infinity", -3, "1e999999"])
def test_a_price_is_a_reasonable_number_of_at_least_zero(wrong):
    with pytest.raises(ValueError, match=r"Price\("):
        Price("1", wrong)


def test_an_alias_to_an_unknown_model_fails_where_it_is_written():
    with pytest.raises(ValueError, match=r"prices\['acme'\]: no price is known for 'gpt-99'"):
        PriceBook({"acme": "gpt-99"})


@pytest.mark.parametrize("wrong", [0.5, 3, None, ("1", "2")])
def test_an_alias_is_a_name_or_a_price(wrong):
    with pytest.raises(TypeError, match=r"prices\['acme'\]"):
        PriceBook({"acme": wrong})


# -- what Policy.prices may be


def test_no_prices_are_the_bundled_ones(book):
    assert microcents(price_book(None), "gpt-4.1") == microcents(book, "gpt-4.1")


def test_a_mapping_is_a_book_of_aliases():
    assert microcents(price_book({"x": Price("1", "1")}), "x") == 1_010 * 100


def test_a_price_book_of_ones_own_is_used_as_it_is():
    class Flat:
        def price(self, model, tokens, /):
            return usd("0.01")

    flat = Flat()
    assert price_book(flat) is flat


@pytest.mark.parametrize("wrong", ["gpt-4.1", 5, [("a", "b")]])
def test_anything_else_is_no_price_book(wrong):
    with pytest.raises(TypeError, match="not a price book"):
        price_book(wrong)


# -- exactness

counts = st.integers(0, 10**9)
rates = st.decimals(0, 1_000, places=6, allow_nan=False, allow_infinity=False)


@given(counts, counts, rates, rates)
def test_a_price_is_the_exact_sum_rounded_up_once(given_in, given_out, rate_in, rate_out):
    price = Price(rate_in, rate_out).microcents(TokenCount(input=given_in, output=given_out))
    millionths = given_in * int(rate_in * 10**6) + given_out * int(rate_out * 10**6)
    assert price == -(-millionths * 100 // 10**6)
    assert isinstance(price, int)


@given(counts, counts, st.integers(1, 10**6))
def test_more_tokens_never_cost_less(given_in, given_out, more):
    book = PriceBook(when=LONG_AGO)
    less = TokenCount(input=given_in, output=given_out)
    for model in ("gpt-4.1", "gemini-2.5-pro"):
        base = microcents(book, model, less)
        assert 0 <= base <= microcents(book, model, TokenCount(given_in + more, 0, given_out))
        assert base <= microcents(book, model, TokenCount(given_in, 0, given_out + more))


@given(counts, counts, counts, counts, counts)
def test_parts_that_exceed_their_whole_are_charged_and_never_negative(a, b, c, d, e):
    price = Price("2", "8", cached="0.5", cache_write="2.5", reasoning="8")
    assert price.microcents(TokenCount(a, b, c, d, e)) >= ceil(b * 50 + e * 250 + d * 800)


def test_a_programs_own_decimal_context_changes_no_price():
    price, tokens = Price("1.234567", "8"), TokenCount(input=987_654_321)
    expected = price.microcents(tokens)
    with localcontext() as context:
        context.prec, context.rounding = 3, "ROUND_DOWN"
        assert price.microcents(tokens) == expected


def test_a_price_beyond_the_protocol_is_the_most_it_can_carry():
    assert Price("1000000", "0").microcents(TokenCount(input=10**18)) == MOST
