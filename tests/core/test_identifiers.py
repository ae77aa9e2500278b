"""Names are made to fit the protocol, or refused with the way to write them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller.core.identifiers import (
    MAX_IDENTIFIER_LENGTH,
    checked,
    is_identifier,
    normalize_identifier,
)


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("triage", "triage"),
        ("Triage agent", "Triage-agent"),
        ("Triage -- agent!", "Triage----agent-"),
        ("a / b : c", "a-b-c"),
        ("größe", "gr-e"),
        ("v1.2_x-y", "v1.2_x-y"),
    ],
)
def test_other_characters_become_a_dash_and_runs_of_them_one(text, fit):
    assert normalize_identifier(text) == fit


@given(st.text(max_size=300), st.integers(16, MAX_IDENTIFIER_LENGTH))
def test_every_text_is_made_to_fit_and_what_fits_stays(text, most):
    fit = normalize_identifier(text, most)
    assert re.fullmatch(r"[a-zA-Z0-9_.-]+", fit)
    assert len(fit) <= most
    assert normalize_identifier(fit, most) == fit
    if is_identifier(text, most):
        assert fit == text


def test_where_nothing_is_left_names_stay_apart():
    assert (
        len(
            {
                normalize_identifier("日本"),
                normalize_identifier("中国"),
                normalize_identifier(""),
                normalize_identifier("-" * 200),
                normalize_identifier("!!"),
            }
        )
        == 5
    )


def test_long_names_that_begin_alike_stay_apart():
    one, other = normalize_identifier("x" * 200 + "1"), normalize_identifier("x" * 200 + "2")
    assert one != other
    assert one[:100] == other[:100] == "x" * 100


def test_what_cannot_be_encoded_is_made_to_fit_all_the_same():
    assert is_identifier(normalize_identifier("\ud800"))


def test_what_a_person_gave_is_checked():
    assert checked("tenant", "acme") == "acme"


@pytest.mark.parametrize("text", ["Acme Corp", "a/b", "x" * 129, "ü", "a\n"])
def test_what_does_not_fit_is_refused_with_an_example_that_does(text):
    with pytest.raises(ValueError, match="tenant=") as caught:
        checked("tenant", text)
    assert repr(normalize_identifier(text)) in str(caught.value)


def test_an_empty_value_is_refused():
    with pytest.raises(ValueError, match="workspace='': it cannot be empty"):
        checked("workspace", "")


@pytest.mark.parametrize("given_value", [None, 7, b"acme"])
def test_a_value_is_a_string(given_value):
    with pytest.raises(TypeError, match="app="):
        checked("app", given_value)
