"""The contract that is shipped: it passes a right ledger, finds a wrong one and says why."""

import inspect
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from comptroller.testing.contract import EmbeddedContract

pytestmark = pytest.mark.alike

OWN = Path(__file__).with_name("own_ledgers.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What pytest says of each suite: class -> (outcome, test) -> text."""
    report = tmp_path_factory.mktemp("own") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", OWN]
    subprocess.run([*command, f"--junitxml={report}"], check=False, capture_output=True)
    found = defaultdict(dict)
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - written by pytest
        kind = case.get("classname").rpartition(".")[2]
        what = next(iter(case), None)
        text = "" if what is None else f"{what.get('message')}\n{what.text}"
        name = case.get("name").partition("[")[0]
        found[kind][("passed" if what is None else what.tag, name)] = text
    return found


def laws(suite):
    return {name: test for name, test in inspect.getmembers(suite) if name.startswith("test_")}


def test_a_ledger_that_has_no_operator_passes(outcomes):
    assert {outcome for outcome, _ in outcomes["TestRight"]} == {"passed"}
    assert len(outcomes["TestRight"]) > 30


@pytest.mark.parametrize(
    ("suite", "law"),
    [
        ("TestForgetsKeys", "test_every_request_that_is_sent_again_is_done_once"),
        ("TestForgetsKeys", "test_the_same_request_at_the_same_time_is_performed_once"),
        ("TestLooksAndThenTakes", "test_half_of_two_hundred_callers_get_what_allows_half"),
        ("TestShowsAllToAll", "test_tenants_do_not_see_each_other"),
        ("TestRaisesErrorsOfItsOwn", "test_what_does_not_fit_is_denied"),
        ("TestChargesTheEstimate", "test_reserve_locks_and_commit_charges_in_every_budgeted_scope"),
        ("TestLeasesNeverEnd", "test_a_lease_ends_by_itself_and_its_estimate_is_free_again"),
    ],
)
def test_a_wrong_ledger_is_found_and_told_which_rule_it_broke(outcomes, suite, law):
    text = outcomes[suite][("failure", law)]
    rule = inspect.getdoc(laws(EmbeddedContract)[law]).splitlines()[0]
    assert f"broken rule of the ledger's contract: {rule}" in text


def test_a_ledger_that_keeps_its_own_time_skips_the_laws_of_leases_alone(outcomes):
    found = outcomes["TestKeepsItsOwnTime"]
    assert {outcome for outcome, _ in found} == {"passed", "skipped"}
    assert len([law for outcome, law in found if outcome == "skipped"]) == 4


def test_a_suite_that_gives_no_ledger_is_told_to(outcomes):
    """The plugin has a fixture of that name, which would pass for the user's ledger."""
    texts = outcomes["TestNoLedger"]
    assert {outcome for outcome, _ in texts} == {"error"}
    assert all("TestNoLedger has no ledger to test: write a fixture" in t for t in texts.values())


def test_a_suite_that_cannot_set_budgets_is_told_to(outcomes):
    texts = [
        t for (outcome, _), t in outcomes["TestNoWayToSetBudgets"].items() if outcome != "passed"
    ]
    assert len(texts) > 20
    assert all("Own has no set_budget: write a fixture `set_budget`" in text for text in texts)


def test_every_law_says_its_rule():
    """`law` wraps it, and the rule is its docstring."""
    found = laws(EmbeddedContract)
    assert len(found) > 60
    assert [name for name, test in found.items() if not hasattr(test, "__wrapped__")] == []
    assert [name for name, test in found.items() if not test.__doc__] == []


def test_the_testing_package_needs_no_pytest():
    """It is imported by programs, too: the contract alone is made of pytest."""
    program = "import sys, comptroller.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
