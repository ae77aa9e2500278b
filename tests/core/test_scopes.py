"""Scopes are derived from subjects, and read as people write them."""

import pytest
from runcycles import Subject

from comptroller.core.scopes import ancestor_scopes, leaf_scope, parse_scope, scopes_of


def test_the_order_of_levels_is_fixed_and_gaps_leave_nothing_behind():
    subject = Subject(toolset="crm", agent="triage", tenant="acme")
    assert scopes_of(subject) == (
        "tenant:acme",
        "tenant:acme/agent:triage",
        "tenant:acme/agent:triage/toolset:crm",
    )


def test_values_are_compared_in_lower_case():
    assert scopes_of(Subject(tenant="Acme", agent="Triage")) == scopes_of(
        Subject(tenant="acme", agent="triage")
    )


@pytest.mark.parametrize("subject", [Subject(), Subject(dimensions={"a": "b"})])
def test_a_subject_names_a_level(subject):
    with pytest.raises(ValueError, match="names no level"):
        scopes_of(subject)


@pytest.mark.parametrize("value", ["a/agent:b", "a:b", "a b", "", "x\n"])
def test_a_value_with_structure_of_its_own_is_refused(value):
    with pytest.raises(ValueError, match=r"subject\.workspace"):
        scopes_of(Subject(tenant="acme", workspace=value))


def test_the_scopes_within_a_path_are_those_it_was_derived_with():
    scopes = scopes_of(Subject(tenant="acme", app="a", agent="b"))
    assert ancestor_scopes(scopes[-1]) == scopes
    assert leaf_scope(scopes[-1]) == "agent:b"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("tenant:acme", "tenant:acme"),
        ("tenant:acme/agent:Triage agent", "tenant:acme/agent:triage-agent"),
        ("tenant:acme/agent: triage ", "tenant:acme/agent:triage"),
        ("tenant:acme/agent:a:b", "tenant:acme/agent:a-b"),
    ],
)
def test_a_scope_is_kept_as_subjects_derive_it(written, kept):
    assert parse_scope(written) == kept


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("acme", "is not LEVEL:NAME"),
        ("tenant:acme/", "is not LEVEL:NAME"),
        ("tenant:acme/team:x", "is not LEVEL:NAME"),
        ("tenant: ", "is not LEVEL:NAME"),
        ("tenant:acme/agent:a/app:b", "app stands in the wrong place"),
        ("tenant:a/tenant:b", "tenant stands in the wrong place"),
        ("agent:triage", "begins with a tenant"),
    ],
)
def test_a_malformed_scope_says_what_is_wrong_and_how_to_write_it(written, why):
    with pytest.raises(ValueError, match=why) as caught:
        parse_scope(written)
    assert "tenant:acme/agent:triage" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scope_is_a_string():
    with pytest.raises(TypeError, match="give a string"):
        parse_scope(7)
