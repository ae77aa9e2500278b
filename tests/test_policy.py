"""Settings are checked where they are written; a wrong one is one line that says what to write."""

import copy
import math
import pickle
from datetime import timedelta
from functools import partial

import attrs
import pytest
from runcycles import Amount, CommitOveragePolicy, Unit

from comptroller import PriceBook, cycles
from comptroller.money import MAX_AMOUNT, risk_points, tokens, usd
from comptroller.policy import Limits, Policy, ToolEstimateConfig, ToolEstimateMap


class Strategy:
    """A strategy of somebody's own."""

    def estimate(self, call, prices):
        return tokens(1)


def refused(make, /, *args, **settings):
    """The one line with which wrong settings are refused."""
    with pytest.raises((TypeError, ValueError)) as error:
        make(*args, **settings)
    assert len(error.value.args) == 1
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 200
    return f"{type(error.value).__name__}: {text}"


def test_the_defaults_are_those_of_the_documentation():
    policy = Policy()
    assert policy.llm_estimate is None
    assert policy.tools.cost("anything").estimate.amount == 0
    assert (policy.on_tool_denied, policy.on_abandoned) == ("stop", "charge")
    assert (policy.fail_open, policy.dry_run) == (False, False)
    assert (policy.ttl_ms, policy.teardown_timeout, policy.settle_timeout) == (60_000, 5, 5)
    assert policy.overage_policy is CommitOveragePolicy.ALLOW_IF_AVAILABLE
    assert attrs.asdict(Limits()) == dict.fromkeys(
        ["llm_calls", "tool_calls", "tokens", "spend", "seconds"]
    )


@pytest.mark.parametrize("value", [Policy(), Limits(llm_calls=1)])
def test_a_setting_is_not_changed_afterwards(value):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.tokens = 5
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.fail_open = True


def test_settings_travel_to_other_processes():
    policy = Policy(llm_estimate=usd("0.05"), tools={"search": 5})
    limits = Limits(tool_calls={"search": 2}, seconds=5)
    for sent in (copy.deepcopy((policy, limits)), pickle.loads(pickle.dumps((policy, limits)))):
        assert sent[0].llm_estimate == usd("0.05")
        assert sent[0].tools.cost("search").estimate == risk_points(5)
        assert sent[1] == limits


@pytest.mark.parametrize(
    ("setting", "wrong", "kind", "line"),
    [
        ("llm_estimate", 0.05, TypeError, 'is not an amount or a strategy: write usd("0.05")'),
        ("llm_estimate", 5000, TypeError, 'a strategy: write usd("0.05"), tokens(4000)'),
        ("llm_estimate", Strategy, TypeError, "Strategy is a class: write Strategy()"),
        ("tools", 5, TypeError, '5 is no mapping: write {"tool name": 5}'),
        ("tools", 0, TypeError, "0 is no mapping"),
        ("tools", ["search"], TypeError, "['search'] is no mapping"),
        ("tools", {1: 1}, TypeError, "1 is no tool's name: write a string"),
        (
            "tools",
            {"search": 0.5},
            TypeError,
            "['search']: 0.5 is not a whole number: write an int",
        ),
        ("tools", {"search": True}, TypeError, "['search']: True is not a whole number"),
        ("tools", {"search": -1}, ValueError, "['search']: -1: the least is 0"),
        ("prices", 7, TypeError, "7 is not a price book: write"),
        ("prices", PriceBook, TypeError, "PriceBook is a class: write PriceBook()"),
        ("prices", {"m": 2.5}, TypeError, "['m']: 2.5 is not a price: write a model's name"),
        ("prices", {"m": "gpt-4i"}, ValueError, "['m']: no price is known for 'gpt-4i': write"),
        ("heartbeat_max_age_ms", 0, ValueError, "0: the least is 1"),
        ("heartbeat_max_extensions", "2", TypeError, "'2' is not a whole number: write an int"),
        ("on_tool_denied", "ignore", ValueError, "'ignore': write 'stop' or 'tell_model'"),
        ("on_abandoned", None, ValueError, "None: write 'charge' or 'release'"),
        ("on_abandoned", ["charge"], ValueError, "['charge']: write 'charge' or 'release'"),
        ("fail_open", "no", TypeError, "'no' is neither True nor False"),
        ("dry_run", 1, TypeError, "1 is neither True nor False"),
        ("ttl_ms", 999, ValueError, "999: a lease lasts 1000 to 86400000 milliseconds"),
        ("ttl_ms", 86_400_001, ValueError, "a lease lasts 1000 to 86400000 milliseconds"),
        ("ttl_ms", 60_000.0, TypeError, "60000.0 is not a whole number: write an int"),
        ("ttl_ms", True, TypeError, "True is not a whole number: write an int"),
        ("overage_policy", "SURE", ValueError, "'SURE': write 'REJECT' or 'ALLOW_IF_AVAILABLE'"),
        ("teardown_timeout", "5", TypeError, "'5' is not a number of seconds"),
        ("settle_timeout", True, TypeError, "True is not a number of seconds"),
    ],
)
def test_a_wrong_policy_says_what_to_write(setting, wrong, kind, line):
    text = refused(Policy, **{setting: wrong})
    assert text.startswith(f"{kind.__name__}: {setting}")
    assert line in text


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, -math.inf, 10**400, 1e300])
def test_a_wait_is_bounded(wrong):
    """Law 4: infinity is no bound, and a timer cannot hold what is beyond a float."""
    for setting in ("teardown_timeout", "settle_timeout"):
        with pytest.raises(ValueError, match=f"{setting}: .*: give more than 0 seconds, at most"):
            Policy(**{setting: wrong})
    with pytest.raises(ValueError, match=r"seconds: .*: give more than 0 seconds, at most"):
        Limits(seconds=wrong)


def test_what_is_right_is_kept():
    strategy = Strategy()
    policy = Policy(
        llm_estimate=strategy, overage_policy="REJECT", settle_timeout=0.5, ttl_ms=1_000
    )
    assert policy.llm_estimate is strategy
    assert policy.overage_policy is CommitOveragePolicy.REJECT
    tools = ToolEstimateMap({"search": 5})
    assert Policy(tools=tools).tools is tools
    assert Policy(tools={"search": 5}).tools.cost("search").estimate == risk_points(5)


def test_every_field_of_a_policy_refuses_what_it_cannot_be():
    """A wrong setting fails where it is written, whichever it is, not in the first run."""
    for field in attrs.fields(Policy):
        with pytest.raises((TypeError, ValueError), match=f"^{field.name}"):
            Policy(**{field.name: object()})


class TestToolEstimates:
    @pytest.mark.parametrize(
        "mapping",
        [
            {},
            {"pay": usd(1)},
            {"pay": usd(1), "mail": tokens(5)},
            {"pay": ToolEstimateConfig(usd(1))},
            {"pay": ToolEstimateConfig(5, unit=Unit.CREDITS)},
        ],
    )
    def test_a_mapping_of_amounts_invents_no_unit_of_its_own(self, mapping):
        """An unlisted tool is free there: a default in points asks for a budget nobody named."""
        assert Policy(tools=mapping).tools.is_zero_estimate("any")
        assert ToolEstimateMap(mapping).cost("any").estimate == risk_points(1)
        assert cycles.CyclesRunHooks(
            tenant="acme", client=object(), tool_estimates=mapping
        )._policy.tools.cost("any").estimate == risk_points(1)

    @pytest.mark.parametrize(
        "mapping", [{"pay": 5}, {"pay": usd(1), "mail": 5}, {"pay": ToolEstimateConfig(5)}]
    )
    def test_a_mapping_with_bare_numbers_has_a_default_in_their_unit(self, mapping):
        assert Policy(tools=mapping).tools.cost("any").estimate == risk_points(1)

    def test_a_tool_costs_what_the_map_says_or_the_default(self):
        costs = ToolEstimateMap({"search": 5, "mail": usd("0.01"), "free": 0}, default_estimate=2)
        amounts = [costs.cost(name).estimate for name in ("search", "mail", "free", "other")]
        assert amounts == [risk_points(5), usd("0.01"), risk_points(0), risk_points(2)]

    def test_an_unlisted_tool_costs_one_risk_point(self):
        assert ToolEstimateMap().cost("any").estimate == risk_points(1)
        assert ToolEstimateMap(None).cost("any").action_kind == "tool.invoke"

    def test_a_config_may_set_unit_kind_and_actual(self):
        def actual(arguments, result):
            return tokens(len(result))

        config = ToolEstimateConfig(5, action_kind="payment.send", unit=Unit.CREDITS, actual=actual)
        cost = ToolEstimateMap({"pay": config}, 1, Unit.TOKENS).cost("pay")
        assert cost.estimate == Amount(unit=Unit.CREDITS, amount=5)
        assert (cost.action_kind, cost.actual) == ("payment.send", actual)

    def test_the_map_is_a_copy(self):
        """What the caller does to their mapping afterwards changes no run."""
        mapping = {"search": 5}
        costs = ToolEstimateMap(mapping)
        mapping["search"] = 500
        assert costs.cost("search").estimate == risk_points(5)

    def test_a_map_shows_what_is_in_it(self):
        assert repr(ToolEstimateMap({"search": 5})).startswith("ToolEstimateMap(mapping={'search'")

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"default_estimate": 1.5}, "TypeError: default_estimate: 1.5 is not a whole number"),
            ({"default_estimate": -1}, "ValueError: default_estimate: -1: the least is 0"),
            ({"default_unit": "TOKENS?"}, "TypeError: default_unit: 'TOKENS?' is no unit"),
            (
                {"mapping": {"a": MAX_AMOUNT + 1}},
                "ValueError: risk_points(9223372036854775808): an",
            ),
        ],
    )
    def test_a_wrong_map_is_refused(self, settings, line):
        assert refused(ToolEstimateMap, **settings).startswith(line)

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"estimate": 0.5}, "TypeError: a tool's estimate: 0.5 is not a whole number"),
            ({"estimate": True}, "TypeError: a tool's estimate: True is not a whole number"),
            ({"estimate": 1, "unit": "POINTS"}, "TypeError: unit: 'POINTS' is no unit"),
            ({"estimate": 1, "action_kind": ""}, "ValueError: action_kind: '': write 1 to 64"),
            ({"estimate": 1, "action_kind": "k" * 65}, "ValueError: action_kind: 'kkk"),
            ({"estimate": 1, "action_kind": 5}, "TypeError: action_kind: 5 is not a string"),
            ({"estimate": 1, "actual": 5}, "TypeError: actual: 5 is no function"),
        ],
    )
    def test_a_wrong_config_is_refused(self, settings, line):
        assert refused(ToolEstimateConfig, **settings).startswith(line)

    @pytest.mark.parametrize("config", [ToolEstimateConfig, cycles.ToolEstimateConfig])
    def test_an_async_actual_is_refused(self, config):
        """Nobody would await it: the estimate would be charged for every call."""

        async def actual(arguments, result):
            return risk_points(1)

        class Meter:
            async def __call__(self, arguments, result):
                return risk_points(1)

        for given in (actual, partial(actual, None), Meter(), Meter().__call__):
            line = refused(config, estimate=1, actual=given)
            assert line == (
                "TypeError: actual: nobody awaits an async function: "
                "give a plain function (arguments, result) -> Amount"
            )


class TestLimits:
    def test_seconds_may_be_a_timedelta(self):
        assert Limits(seconds=timedelta(minutes=2)).seconds == 120
        assert Limits(seconds=0.5).seconds == 0.5

    def test_tool_calls_are_counted_in_all_or_by_name(self):
        mapping = {"search": 2}
        limits = Limits(tool_calls=mapping)
        mapping["search"] = 99
        assert limits.tool_calls == {"search": 2}
        assert Limits(tool_calls=3).tool_calls == 3
        assert Limits(tool_calls=0).tool_calls == 0

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"llm_calls": 1.5}, "TypeError: llm_calls: 1.5 is not a whole number: write an int"),
            ({"llm_calls": True}, "TypeError: llm_calls: True is not a whole number"),
            ({"llm_calls": -1}, "ValueError: llm_calls: -1: the least is 0"),
            ({"llm_calls": {"a": 1}}, "TypeError: llm_calls: {'a': 1} is not a whole number"),
            ({"tokens": tokens(5)}, "TypeError: tokens: Amount("),
            ({"tool_calls": 1.5}, "TypeError: tool_calls: 1.5 is not a whole number"),
            ({"tool_calls": {"a": -1}}, "ValueError: tool_calls['a']: -1: the least is 0"),
            ({"tool_calls": {"a": None}}, "TypeError: tool_calls['a']: None is not a whole"),
            ({"tool_calls": {1: 1}}, "TypeError: tool_calls: 1 is no tool's name"),
            ({"spend": 0.5}, 'TypeError: spend: 0.5 is not an amount: write usd("0.5")'),
            ({"spend": 5}, "TypeError: spend: 5 is not an amount: write usd("),
            ({"seconds": "60"}, "TypeError: seconds: '60' is not a number of seconds"),
            ({"seconds": True}, "TypeError: seconds: True is not a number of seconds"),
            ({"seconds": timedelta(0)}, "ValueError: seconds: 0.0: give more than 0 seconds"),
        ],
    )
    def test_a_wrong_limit_says_what_to_write(self, settings, line):
        assert refused(Limits, **settings).startswith(line)
