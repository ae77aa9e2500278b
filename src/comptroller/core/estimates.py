"""What an LLM call reserves before it begins, and what it cost once it has ended.

Laws of this module:
- An estimate only reserves. What is charged is the actual, from the usage that the model reports.
- Where the actual cannot be known, the estimate is charged, and its source says so.
"""

import threading
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from math import ceil
from typing import Any, Final, Literal

import attrs
from attrs import field, validators
from runcycles import Amount, Unit

from comptroller._validation import at_least, check_type
from comptroller.core.pricing import PLAIN, Billing, Prices, TokenCount, price_of
from comptroller.money import MAX_AMOUNT, amount, tokens, usd
from comptroller.policy import Field, LlmEstimate, amount_or_strategy

DEFAULT_ESTIMATE: Final = usd("0.005")
"""What an LLM call reserves where nothing was said and the price of its model is not known."""

CHARACTERS_PER_TOKEN: Final = 4

LONGEST_CALL: Final = timedelta(hours=1)
"""How far ahead an estimate looks for a dearer price. The OpenAI client gives an attempt ten
minutes, and makes three.
"""
_MAX_KEYS: Final = 1024


@attrs.frozen
class LlmRequest:
    """What is known of an LLM call before it begins.

    Attributes:
        model: `provider:model`, as in action names.
        agent: the agent's name.
        input_characters: length of everything that is read: instructions, items, tool schemas, and
            what the provider has kept of the conversation, as far as it is known.
        max_tokens: the most output tokens the call allows; None: it sets no limit. Below 0 it
            sets none either: some servers take -1 for that.
        billing: what decides its price beside model and tokens, among it its moment.
    """

    model: str
    agent: str
    input_characters: int = field(validator=validators.ge(0))
    max_tokens: int | None = None
    billing: Billing = PLAIN

    @property
    def input_tokens(self) -> int:
        """About four characters a token, rounded up.

        A rough count is enough: it is held only while the call is in flight, and the usage that
        the model reports replaces it. An exact one would need each provider's tokenizer, and
        would still not know the output, which is most of the price. It is the providers' own
        rule of thumb for English; text in other scripts has more tokens than this says.
        """
        return -(-self.input_characters // CHARACTERS_PER_TOKEN)


def _an_amount(_: object, attribute: Field, value: Any) -> None:
    check_type(attribute.name, value, Amount, 'an amount such as usd("0.05")')


def _share(_: object, attribute: Field, value: Any) -> None:
    check_type(attribute.name, value, float | int, "a number such as 0.95")
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name}={value!r}: more than 0, and at most 1")


def _money_or_tokens(given: Unit | str) -> Unit:
    if given not in (Unit.USD_MICROCENTS, Unit.TOKENS):
        shown = given.value if isinstance(given, Unit) else repr(given)
        raise ValueError(f"unit={shown}: write USD_MICROCENTS or TOKENS")
    return Unit(given)


@attrs.frozen
class Fixed:
    """Reserves the same amount for every call."""

    amount: Amount = field(validator=_an_amount)
    source = "fixed"

    def estimate(self, request: LlmRequest, prices: Prices, /) -> Amount | None:
        """`amount`, whatever the request."""
        del request, prices
        return self.amount


@attrs.frozen
class WorstCase:
    """Reserves the estimated input and all the output the call allows, none of it cached.

    There is no factor on top: the overage policy says what an actual above its estimate does.

    Attributes:
        max_tokens: the output that is assumed of a call that sets no limit itself.
        unit: USD_MICROCENTS, or TOKENS for a budget of tokens.
    """

    max_tokens: int = field(default=4096, validator=at_least(0))
    unit: Unit = field(default=Unit.USD_MICROCENTS, converter=_money_or_tokens)
    source = "worst-case"

    def estimate(self, request: LlmRequest, prices: Prices, /) -> Amount | None:
        """Tokens, or their price; None where the price is not known."""
        most = TokenCount(input=request.input_tokens, output=self.most_output(request))
        if self.unit is Unit.TOKENS:
            return tokens(min(most.total, MAX_AMOUNT))
        billing = attrs.evolve(request.billing, lasting=LONGEST_CALL)
        return price_of(prices, request.model, most, billing)

    def most_output(self, request: LlmRequest) -> int:
        """Return the output tokens that are assumed: what the call allows, if it sets a limit."""
        limit = request.max_tokens
        return self.max_tokens if limit is None or limit < 0 else limit


def _strategy(given: Amount | LlmEstimate) -> LlmEstimate:
    return Fixed(given) if isinstance(given, Amount) else given


@attrs.define(eq=False)
class Learned:
    """Reserves what calls of the same agent and model have cost so far in this process.

    The memory is bounded, and safe to share between threads. Teach it only actuals that come from
    usage: an estimate that is learned confirms itself.

    Attributes:
        quantile: the share of past calls that the reservation would have covered.
        fallback: the strategy until `seen` calls are known.
        seen: how many calls are needed.
        keep: how many calls are remembered of each agent and model, the last ones.
    """

    quantile: float = field(default=0.95, validator=_share)
    fallback: LlmEstimate = field(
        factory=WorstCase, converter=_strategy, validator=amount_or_strategy
    )
    seen: int = field(default=20, validator=at_least(1))
    keep: int = field(default=200, validator=at_least(1))
    _past: dict[tuple[str, str], deque[Amount]] = field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    source = "learned"

    def learn(self, agent: str, model: str, actual: Amount) -> None:
        """Remember what a call of `agent` by `model` cost."""
        with self._lock:
            past = self._past.setdefault((agent, model), deque(maxlen=self.keep))
            if past and past[-1].unit is not actual.unit:
                past.clear()  # the policy's unit changed: amounts of two units do not compare
            past.append(actual)
            if len(self._past) > _MAX_KEYS:
                del self._past[next(iter(self._past))]  # agents named anew for every run

    def learned(self, request: LlmRequest) -> Amount | None:
        """Return the quantile of what such calls have cost; None until enough of them are known."""
        with self._lock:
            past = list(self._past.get((request.agent, request.model), ()))
        if len(past) < self.seen:
            return None
        ordered = sorted(known.amount for known in past)
        return amount(past[-1].unit, ordered[ceil(self.quantile * len(ordered)) - 1])

    def estimate(self, request: LlmRequest, prices: Prices, /) -> Amount | None:
        """Return what such calls have cost, else what the fallback says."""
        return self.learned(request) or self.fallback.estimate(request, prices)


@attrs.frozen
class Estimate:
    """What a call reserves, and which rule said so.

    `source` is `fixed`, `worst-case`, `learned`, `default`, or `custom` for a strategy of the
    user's own. `output`: the output tokens that a worst case assumes.
    """

    amount: Amount
    source: str
    output: int | None = None


def resolve_estimate(
    given: Amount | LlmEstimate | None, request: LlmRequest, prices: Prices
) -> Estimate:
    """Return what `Policy.llm_estimate` means for one call.

    None is `WorstCase()`. Whatever strategy it is, $0.005 (`default`) is reserved where it cannot
    tell, as for a model whose price is not known.

    Raises:
        TypeError: a strategy of the user's own returned something else than an `Amount` or None.
    """
    strategy = WorstCase() if given is None else _strategy(given)
    if isinstance(strategy, Learned):
        if (past := strategy.learned(request)) is not None:
            return Estimate(past, "learned")
        return resolve_estimate(strategy.fallback, request, prices)
    estimate: Any = strategy.estimate(request, prices)
    if estimate is None:
        return Estimate(DEFAULT_ESTIMATE, "default")
    if not isinstance(estimate, Amount):
        hint = 'return an Amount such as usd("0.05"), or None'
        raise TypeError(f"llm_estimate: {strategy!r} returned {estimate!r}: {hint}")
    output = strategy.most_output(request) if isinstance(strategy, WorstCase) else None
    return Estimate(estimate, getattr(strategy, "source", "custom"), output)


@attrs.frozen
class ActualCost:
    """What a call cost, and where that is known from.

    `source`: the reported usage, the cost that the provider itself has reported, or the estimate.
    """

    amount: Amount
    source: Literal["usage", "reported", "estimate"]


@attrs.frozen(kw_only=True)
class Answered:
    """What a model's answer says of its price, beside its usage.

    Attributes:
        cost: what the provider says that the call cost; it wins over every price.
        model: `provider:model` as the answer names it: a deployment's or an alias's model. It
            counts where the name that was asked for has no known price.
        context: the terms that were granted, such as the service tier; they win over what was
            asked for.
    """

    cost: Amount | None = None
    model: str | None = None
    context: Mapping[str, str] = field(factory=dict, hash=False)


NOTHING_SAID: Final = Answered()


def actual(
    unit: Unit,
    model: str,
    used: TokenCount | None,
    prices: Prices,
    estimate: Amount,
    billing: Billing = PLAIN,
    said: Answered = NOTHING_SAID,
) -> ActualCost:
    """Return what an LLM call cost, in the unit of its reservation.

    Args:
        unit: the unit of the reservation. Risk points and credits are not measured by usage:
            such a call costs its estimate.
        model: `provider:model`.
        used: the tokens that the model reported; None where it reported none.
        prices: the price book. A price in another unit than money is no price.
        estimate: what was reserved, charged where the actual cannot be known.
        billing: what decides the price beside model and tokens.
        said: what the answer itself says of its price.
    """
    if said.cost is not None and said.cost.unit is unit:
        return ActualCost(said.cost, "reported")
    known = None
    if used is not None and unit is Unit.TOKENS:
        known = tokens(min(used.total, MAX_AMOUNT))
    elif used is not None and unit is Unit.USD_MICROCENTS:
        billing = attrs.evolve(billing, context={**billing.context, **said.context})
        known = price_of(prices, model, used, billing)
        if known is None and said.model is not None:
            known = price_of(prices, said.model, used, billing)
    if known is None or known.unit is not unit:
        return ActualCost(estimate, "estimate")
    return ActualCost(known, "usage")
