"""Prices: exact, offline, of their moment, and of who sells. Every model is in `test_bills`."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runcycles import Unit

from comptroller.core.pricing import Billing, Price, PriceBook, TokenCount, price_book, price_of
from comptroller.money import MAX_AMOUNT, usd

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


def extras(**units):
    return TokenCount(input=1_000, cached=100, output=10, extras=units)


def test_searches_by_the_provider_cost_what_it_asks_for_them(then):
    # gpt-4.1-mini: $0.40, $0.10 cached and $1.60 per million; $10 and $2.50 per thousand searches
    plain = 900 * 40 + 100 * 10 + 10 * 160
    assert microcents(then, "gpt-4.1-mini", extras(web_searches=5)) == plain + usd("0.05").amount
    assert microcents(then, "gpt-4.1-mini", extras(storage_searches=2)) == plain + 500_000


def test_what_is_written_to_the_cache_for_an_hour_has_its_own_price():
    # claude-sonnet-4-5: $3 in, $3.75 written for five minutes, $6 for an hour
    used = TokenCount(input=1_000, cache_write=600, extras={"cache_write_1h_tokens": 500})
    assert microcents(PriceBook(), "claude-sonnet-4-5", used) == 400 * 300 + 100 * 375 + 500 * 600


def test_sound_has_its_own_price_and_what_overlaps_is_counted_once():
    """It is not said whether what was cached was sound: as little of it as there must have been."""
    # gemini-2.5-flash: $0.30, sound $1, cached $0.03 (sound: $0.10), $2.50 out
    heard = TokenCount(input=1_000, output=10, extras={"input_audio_tokens": 700})
    both = TokenCount(input=1_000, cached=400, output=10, extras={"input_audio_tokens": 700})
    book = PriceBook()
    assert microcents(book, "gemini-2.5-flash", heard) == 300 * 30 + 700 * 100 + 10 * 250
    assert microcents(book, "gemini-2.5-flash", both) == 600 * 100 + 100 * 10 + 300 * 3 + 10 * 250


@pytest.mark.parametrize("wrong", [{"searches": 1}, {"web_searches": -1}, {"web_searches": 1.5}])
def test_a_unit_that_nobody_bills_is_refused(wrong):
    with pytest.raises(ValueError, match="extras"):
        TokenCount(extras=wrong)


@pytest.mark.parametrize(
    ("tier", "factor"), [({}, 2), ({"service_tier": "flex"}, 1), ({"service_tier": "priority"}, 4),
                         ({"service_tier": "default"}, 2), ({"service_tier": "unheard-of"}, 2)]
)  # fmt: skip
def test_a_tier_costs_what_its_terms_say(book, tier, factor):
    used = TokenCount(input=1_000, output=10)
    half = 1_000 * 62.5 + 10 * 500  # gpt-5 by flex: $0.625 and $5
    at = datetime(2026, 12, 1, tzinfo=UTC)
    assert book.price("openai:gpt-5", used, Billing(context=tier, at=at)) == usd(
        Decimal(half * factor) / 10**8
    )


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


# -- who sells it

GROQ, TOGETHER = "https://api.groq.com/openai/v1/", "https://api.together.xyz/v1"
OPENROUTER, AZURE = "https://openrouter.ai/api/v1", "https://acme.openai.azure.com/openai/"


@pytest.mark.parametrize(
    ("model", "url", "priced_as"),
    [
        ("openai:llama-3.3-70b-versatile", GROQ, "groq:llama-3.3-70b-versatile"),
        ("openai:openai/gpt-oss-120b", GROQ, "groq:openai/gpt-oss-120b"),
        ("openai:meta-llama/Llama-3.3-70B-Instruct-Turbo", TOGETHER,
         "together:meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("openai:anthropic/claude-sonnet-4", OPENROUTER, "openrouter:anthropic/claude-sonnet-4"),
        ("litellm:openrouter/anthropic/claude-sonnet-4", OPENROUTER,
         "openrouter:anthropic/claude-sonnet-4"),
        ("openai:gpt-4.1", AZURE, "azure:gpt-4.1"),
        ("openai:gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai/",
         "google:gemini-2.5-pro"),
        ("openai:gpt-4.1", "https://api.openai.com/v1/", "openai:gpt-4.1"),
        ("openai:gpt-4.1", "https://ai.acme.com/v1", "openai:gpt-4.1"),
    ],
)  # fmt: skip
def test_a_model_is_priced_as_whoever_serves_it_sells_it(book, model, url, priced_as):
    assert book.price(model, SOME, Billing(url=url)).amount == microcents(book, priced_as)


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("openai:gpt-4.1", GROQ),  # does not sell it
        ("openai:prod-large", AZURE),  # somebody's own name for a deployment
        ("openai:deepseek/deepseek-chat-v3.1:free", OPENROUTER),  # matches the one that costs
    ],
)
def test_what_its_seller_does_not_list_has_no_known_price(book, model, url):
    assert book.price(model, SOME, Billing(url=url)) is None


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("litellm:ollama_chat/deepseek-r1", None),
        ("litellm:hosted_vllm/openai/gpt-oss-20b", None),
        ("litellm:lm_studio/gpt-4", None),
        ("openai:litellm/ollama/deepseek-r1", None),
        ("any_llm:ollama:deepseek-r1", None),
        ("openai:deepseek-r1:7b", "http://192.168.0.7:9000/v1"),
        ("openai:gpt-oss:20b", None),
        ("deepseek/deepseek-r1:7b", None),
        ("openai:deepseek-chat:latest", None),
        ("openai:deepseek-chat:latest-q4", None),
        ("openai:deepseek-r1", "http://localhost:11434/v1/"),
        ("openai:gpt-oss-20b", "http://[::1]:1234/v1"),
        ("openai:gpt-4.1:free", None),
    ],
)
def test_a_local_model_never_takes_the_price_of_a_hosted_one(book, model, url):
    """Unknown is visible: what it costs, if anything, its owner has to say."""
    assert book.price(model, SOME, Billing(url=url)) is None
    declared = PriceBook({model: Price("0", "0")})
    assert declared.price(model, SOME, Billing(url=url)) == usd(0)


@pytest.mark.parametrize(
    ("url", "guessed"),
    [
        ("http://127.0.0.1:8000/v1", True), ("http://vllm:8000/v1", True),
        ("http://10.0.0.3/v1", True), ("http://[fd00::1]:8000/v1", True),
        ("http://llm.acme.internal/v1", True), ("http://user:word@localhost/v1", True),
        ("https://api.openai.com/v1", False), ("https://ai.acme.com/v1", False), (None, False),
        ("nonsense", False),
    ],
)  # fmt: skip
def test_the_price_of_a_private_address_is_a_guess_until_it_is_declared(book, url, guessed):
    """A gateway may stand there, or a local model that goes by the name of a hosted one."""
    billing = Billing(url=url)
    assert book.is_guess("openai:gpt-4.1", billing) is guessed
    assert not book.is_guess("openai:never-heard-of", billing)
    assert not PriceBook({"gpt-4.1": "openai:gpt-4.1"}).is_guess("openai:gpt-4.1", billing)


def test_a_book_of_ones_own_is_told_who_sells_where_it_asks_to_be():
    class Curious:
        def price(self, model, tokens, billing, /):
            return usd("0.01") if billing.url == GROQ else None

    class Marked(PriceBook):
        def price(self, model, tokens, /):
            known = super().price(model, tokens)
            return known and usd(Decimal(known.amount * 2) / 10**8)

    assert price_of(Curious(), "x", SOME, Billing(url=GROQ)) == usd("0.01")
    doubled = price_of(Marked(), "gpt-4.1", SOME, Billing(url=GROQ)).amount
    assert doubled == 2 * microcents(PriceBook(), "gpt-4.1")


# -- time

NOON, NIGHT = (datetime(2026, 12, 1, hour, tzinfo=UTC) for hour in (12, 20))
DAY_AND_NIGHT = "deepseek:deepseek-chat"  # cheaper from 16:30 to 00:30, UTC


def at(moment, **lasting):
    billing = Billing(at=moment, lasting=timedelta(**lasting))
    return PriceBook().price(DAY_AND_NIGHT, PLAIN, billing).amount


def test_a_charge_takes_the_price_of_its_moment():
    assert at(NIGHT) < at(NOON)
    assert at(NOON.replace(hour=16, minute=29)) == at(NOON)
    assert at(NOON.replace(hour=16, minute=30)) == at(NIGHT)


def test_an_estimate_takes_the_dearest_price_that_can_hold_while_its_call_lasts():
    assert at(NIGHT, hours=1) == at(NIGHT)
    assert at(NOON.replace(hour=16, minute=29), hours=1) == at(NOON)
    before_morning = NIGHT + timedelta(hours=4, minutes=7)
    assert at(before_morning) == at(NIGHT)
    assert at(before_morning, minutes=20) == at(NIGHT)
    assert at(before_morning, minutes=23) == at(NOON)


def test_no_price_of_the_future_is_charged():
    # gemini-3.6-flash becomes dearer on the first of January 2027
    book, model = PriceBook(), "google:gemini-3.6-flash"
    eve = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    now, then = (book.price(model, PLAIN, Billing(at=eve + timedelta(hours=n))) for n in (0, 1))
    assert now.amount < then.amount
    assert book.price(model, PLAIN, Billing(at=eve, lasting=timedelta(hours=1))) == then


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


def test_a_price_of_ones_own_knows_searches_and_caches_of_an_hour():
    price = Price("2", "8", cache_write="2.5", cache_write_1h="4", web_search="0.01",
                  file_search="0.0025")  # fmt: skip
    used = TokenCount(input=1_000, cache_write=300, extras={
        "cache_write_1h_tokens": 200, "web_searches": 3, "storage_searches": 2})  # fmt: skip
    searches = usd("0.03").amount + usd("0.005").amount
    assert price.microcents(used) == 700 * 200 + 100 * 250 + 200 * 400 + searches
    assert Price("2", "8").microcents(used) == 1_000 * 200


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


@given(
    st.lists(st.sampled_from([0, 1, 50, 1_000]), min_size=5, max_size=5),
    st.dictionaries(
        st.sampled_from(["cache_write_1h_tokens", "input_audio_tokens", "input_image_tokens",
                         "output_audio_tokens", "output_image_tokens", "cache_audio_read_tokens",
                         "output_citation_tokens", "web_searches"]),
        st.sampled_from([0, 1, 40, 900]),
    ),
)  # fmt: skip
def test_whatever_a_provider_reports_has_a_price(counts, extras):
    """Parts that overlap or exceed their whole: the library would refuse them."""
    used, book = TokenCount(*counts, extras), PriceBook(when=LONG_AGO)
    for model in ("openai:gpt-4o-audio-preview", "gemini-2.5-flash", "claude-sonnet-4-0"):
        assert microcents(book, model, used) >= 0


def test_a_programs_own_decimal_context_changes_no_price():
    price, tokens = Price("1.234567", "8"), TokenCount(input=987_654_321)
    expected = price.microcents(tokens)
    with localcontext() as context:
        context.prec, context.rounding = 3, "ROUND_DOWN"
        assert price.microcents(tokens) == expected


def test_a_price_beyond_the_protocol_is_the_most_it_can_carry():
    assert Price("1000000", "0").microcents(TokenCount(input=10**18)) == MAX_AMOUNT
