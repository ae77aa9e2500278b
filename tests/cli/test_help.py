"""What the command says of itself."""

from importlib.metadata import version

import pytest

from cli.commands import done


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
