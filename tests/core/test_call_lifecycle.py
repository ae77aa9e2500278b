"""The life of a call as a table: complete, without a dead end, and the only way to move."""

import itertools

import pytest

from comptroller.core.call_lifecycle import TRANSITIONS, Event, State, diagram, step


@pytest.mark.parametrize(("before", "event"), TRANSITIONS)
def test_a_step_of_the_table_is_taken(before, event):
    assert step(before, event) is TRANSITIONS[before, event]


@pytest.mark.parametrize(
    ("before", "event"), sorted(set(itertools.product(State, Event)) - set(TRANSITIONS), key=str)
)
def test_any_other_step_is_a_defect(before, event):
    """It raises, and says what was tried."""
    with pytest.raises(ValueError, match=f"a call that is {before.value} cannot be {event.value}"):
        step(before, event)


def test_an_ended_call_never_moves_again():
    assert State.ENDED not in {before for before, _ in TRANSITIONS}


@pytest.mark.parametrize("state", State)
def test_every_state_is_reached_and_left_for_the_end(state):
    """From the beginning to it, and from it to the end."""
    assert state in reachable(State.RESERVING)
    assert State.ENDED in reachable(state)


def reachable(start: State) -> set[State]:
    found, fresh = {start}, {start}
    while fresh:
        fresh = {after for (before, _), after in TRANSITIONS.items() if before in fresh} - found
        found |= fresh
    return found


def test_every_event_means_something():
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_whatever_holds_a_reservation_is_told_before_it_settles():
    """Law 3: nothing is settled, and so nothing released, before its end is known."""
    into = {event for (_, event), after in TRANSITIONS.items() if after is State.SETTLING}
    assert into - {Event.UNANSWERED, Event.EXPIRED} == {Event.TOLD}


def test_the_picture_shows_every_step_once():
    lines = diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert lines[1].split() == ["[*]", "-->", "reserving"]
    assert lines[-1].split() == ["ended", "-->", "[*]"]
    drawn = lines[2:-1]
    assert len(drawn) == len(set(drawn)) == len(TRANSITIONS)
    for (before, event), after in TRANSITIONS.items():
        label = event.value.replace(":", ",")  # a colon would end Mermaid's label
        assert f"    {before.value} --> {after.value}: {label}" in drawn
