"""What a program pays for: the Agents SDK takes a second to import, and few need it."""

import pickle
import subprocess
import sys

import pytest

import comptroller

COMMANDS = ["--help", "version", "budget list", "report", "events", "key list", "backup copy.db"]
BARE = """
import anyio
from comptroller import open_ledger

async def main():
    async with open_ledger("bare.db"):
        pass

anyio.run(main)
"""
HEAVY = {"agents", "openai", "aiohttp"}

pytestmark = pytest.mark.alike


def imported_by(program, *arguments, cwd):
    """Those of the heavy packages that a fresh interpreter has imported in the end."""
    told = "import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    code = f"{told}\n{program}"
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return HEAVY & set(ended.stderr.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a ledger in it."""
    place = tmp_path_factory.mktemp("place")
    command = [sys.executable, "-m", "comptroller", "budget", "set", "tenant:acme", "5usd"]
    subprocess.run([*command, "--ledger", "ledger.db"], cwd=place, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_runs_no_agent_does_not_import_the_sdk(command, place):
    ledger = [] if command in ("--help", "version") else ["--ledger", "ledger.db"]
    program = "from comptroller.cli import main\nmain()"
    assert imported_by(program, *command.split(), *ledger, cwd=place) == set()


@pytest.mark.parametrize(
    "program",
    [
        "import comptroller.server",
        "from comptroller import open_ledger, usd, Policy, BudgetExceeded, Receipt",
        BARE,
    ],
)
def test_a_ledger_does_not_import_the_sdk(program, place):
    assert imported_by(program, cwd=place) == set()


def test_a_public_name_that_there_is_not_is_an_attribute_error():
    import comptroller

    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = comptroller.nonsense
    assert set(comptroller.__all__) <= set(dir(comptroller))


def test_public_names_say_where_their_users_find_them():
    """In `repr`, in tracebacks, and in pickles, which are read by that name."""
    public = {name: getattr(comptroller, name) for name in comptroller.__all__}
    named = {name: value.__module__ for name, value in public.items()}
    assert set(named.values()) == {"comptroller"}
    assert {name: pickle.loads(pickle.dumps(value)) for name, value in public.items()} == public
