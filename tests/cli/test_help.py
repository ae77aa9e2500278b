"""What the command says of itself."""

from importlib.metadata import version

import pytest

from support.cli import done


def test_the_version():
    assert done("--version") == f"comptroller {version('comptroller')}\n"


def test_alone_it_shows_its_commands():
    shown = done()
    assert shown == done("--help")
    assert all(name in shown for name in ("demo", "run", "budget", "reservations"))


@pytest.mark.parametrize("words", [(), ("run",)])
def test_exit_codes_are_documented(words):
    shown = " ".join(done(*words, "--help").split())
    for code in ("0 done", "1 the run failed", "2 bad input", "3 denied", "130 and 143"):
        assert code in shown


@pytest.mark.parametrize("words", [(), ("run",), ("budget", "set"), ("key",), ("outbox", "list")])
def test_every_command_takes_h(words):
    assert done(*words, "-h") == done(*words, "--help")


@pytest.mark.parametrize("words", [("-V",), ("version",)])
def test_the_version_by_other_names(words):
    assert done(*words) == done("--version")


def test_commands_stand_in_groups_in_the_order_of_use():
    shown = done("--help")
    words = [
        "─ Start",
        "│ demo",
        "│ run",
        "─ Budgets",
        "│ budget",
        "─ Look",
        "│ report",
        "─ Operate",
        "│ serve",
    ]
    places = [shown.index(f"{word} ") for word in words]
    assert places == sorted(places)


def test_what_is_served_is_no_choice_where_a_file_is_read():
    assert "address of a Cycles server" not in " ".join(done("report", "--help").split())
