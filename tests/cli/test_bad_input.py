"""Bad input: exit code 2, one line on stderr that names the remedy, nothing else; nothing lost."""

import os
import sqlite3
from pathlib import Path

import pytest

from support.cli import call, done, refused

LEDGER = ("--ledger", "ledger.db")


def run(agent="desk:agent", *options, tenant="acme", ledger="ledger.db"):
    return ("run", agent, "hi", "--tenant", tenant, "--ledger", ledger, *options)


def recorded(path):
    """Every byte of a file but what its header says of its opening: to look at it counts, too.

    SQLite's file format, 1.3: a change counter at 24, and that again at 92.
    """
    content = bytearray(path.read_bytes())
    content[24:28] = content[92:96] = bytes(4)
    return content


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        # budgets and tenants
        (run(tenant="nobody"), "comptroller budget set tenant:nobody 10usd --ledger ledger.db"),
        (run(tenant="a b"), "for example 'a-b'"),
        (run(tenant=""), "it cannot be empty"),
        (run("desk:agent", "--llm-estimate", "100tokens"), "comptroller budget set tenant:acme"),
        # amounts
        (run("desk:agent", "--llm-estimate", "-1usd"), "--llm-estimate: '-1usd'"),
        (run("desk:agent", "--llm-estimate", "0.01"), "write 0.01usd"),
        (run("desk:agent", "--max-spend", "much"), "--max-spend: 'much'"),
        (run("desk:agent", "--budget", "1"), "--budget: '1'"),
        (run("desk:agent", "--max-llm-calls", "-1"), "comptroller run --help"),
        (run("desk:agent", "--max-tool-calls", "two"), "comptroller run --help"),
        (run("desk:agent", "--max-seconds", "0"), "give more than 0 seconds"),
        # ledgers
        (run(ledger="~nobody-of-this-name/l.db"), "'~nobody-of-this-name/l.db' names no ledger"),
        # agents
        (run("desk"), "write MODULE:AGENT"),
        (run(":agent"), "write MODULE:AGENT"),
        (run("desk:"), "write MODULE:AGENT"),
        (run("desk.py:agent"), "such as desk:agent"),
        (run("./dir/desk.py:agent"), "such as dir.desk:agent"),
        (run("desk:agnt"), "write desk:agent or "),
        (run("desk:number"), "write desk:agent or "),
        (run("desk:Place"), "write desk:agent or "),
        (run("desk:cannot"), "--debug"),
        (run("nowhere:agent"), "cd to where it stands"),
        (run("desk.deeper:agent"), "no module 'desk.deeper'"),
        (run("os:path"), "no agent stands in os; it has: "),
        (run("desk:nope"), "write desk:agent or "),
        # ledgers
        (run(ledger="http//:3"), "http://localhost:7878"),
        (run(ledger="http://"), "http://localhost:7878"),
        (run(ledger="postgres://x"), "http://localhost:7878"),
        (run(ledger="localhost:7878"), "http://localhost:7878"),
        (run(ledger=""), "a path such as ledger.db"),
        (run(ledger="http://127.0.0.1:9"), "export CYCLES_API_KEY="),
        (run("desk:agent", "--api-key-env", "NO_KEY", ledger="http://127.0.0.1:9"), "NO_KEY="),
        (run(ledger="nodir/ledger.db"), "mkdir -p nodir"),
        (run(ledger="."), "ledger.db"),
        # the operator's commands
        (("budget", "set", "tenant:acme", "10", *LEDGER), "write 10usd"),
        (("budget", "set", "tenant:acme", "0.5tokens", *LEDGER), "whole numbers"),
        (("budget", "set", "tenant:acme", "-5usd", *LEDGER), "at least 0"),
        (("budget", "set", "acme", "5usd", *LEDGER), "tenant:acme/agent:triage"),
        (("budget", "set", "agent:one", "5usd", *LEDGER), "begins with a tenant"),
        (("budget", "set", "tenant:acme", "5usd", "--per", "week", *LEDGER), '"month"'),
        (("budget", "fund", "tenant:acme", "5tokens", *LEDGER), "comptroller budget set"),
        (("budget", "fund", "tenant:none", "5usd", *LEDGER), "comptroller budget set tenant:none"),
        (("budget", "freeze", "tenant:none", *LEDGER), "comptroller budget set tenant:none"),
        (("budget", "list", "--ledger", "none.db"), "comptroller budget set"),
        (("budget", "list", "--ledger", "nodir/none.db"), "mkdir -p nodir"),
        (("budget", "list", "--ledger", "."), "ledger.db"),
        (("reservations", "--status", "open", *LEDGER), "active, committed, released or expired"),
        (("reservations", "--limit", "0", *LEDGER), "comptroller reservations --help"),
        # the command itself
        (("budget",), "comptroller budget --help"),
        (("nothing",), "comptroller --help"),
        (("run", "desk:agent"), "comptroller run --help"),
        (("run", "desk:agent", "hi"), "--tenant"),
        (("run", "--ledgr", "x"), "--ledger"),
        (("demo", "--model", "gpt-4.1"), "export OPENAI_API_KEY="),
    ],
)
def test_bad_input_is_one_line_that_names_the_remedy(command, remedy, tmp_path):
    before = recorded(tmp_path / "ledger.db")
    assert remedy in refused(*command)
    assert recorded(tmp_path / "ledger.db") == before
    assert not list(tmp_path.glob("none.db"))


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_like_this", "No module named 'nothing_like_this'"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_module_that_does_not_import_says_why(tmp_path, text, says):
    (tmp_path / "broken_desk.py").write_text(text)
    line = refused(*run("broken_desk:agent"))
    assert line.startswith("broken_desk cannot be imported: ")
    assert says in line
    assert "--debug" in line


def test_a_model_without_a_price_cannot_be_shown():
    line = refused("demo", "--model", "gpt-of-nobody", env={"OPENAI_API_KEY": "key"})
    assert "gpt-4.1-mini" in line


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    "command", [run(ledger="bad.db"), ("budget", "list", "--ledger", "bad.db")]
)
@pytest.mark.parametrize("content", [b"this has never been a database, not for a minute", None])
def test_a_damaged_ledger_is_left_as_it_is(tmp_path, command, content):
    """A file of something else, and a ledger whose pages are damaged."""
    bad = tmp_path / "bad.db"
    if content is None:
        content = bytearray((tmp_path / "ledger.db").read_bytes())
        content[200:9000] = b"\x5a" * 8800
    bad.write_bytes(content)
    line = refused(*command)
    assert "bad.db is damaged or no ledger" in line
    assert "sqlite3 bad.db .recover" in line
    assert bad.read_bytes() == content


@pytest.mark.usefixtures("desk")
def test_a_database_of_another_program_is_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    assert "name another file" in refused("budget", "list", "--ledger", "other.db")
    assert (tmp_path / "other.db").read_bytes() == before


@pytest.fixture
def powerless(tmp_path):
    """As a user whom permissions bind: nobody, where the tests are root's."""
    if os.geteuid() != 0:
        yield
        return
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and "pytest" in str(path):
            path.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def own(path):
    """Make it that user's, where the tests are root's."""
    if os.getuid() == 0:
        user = os.geteuid()
        os.seteuid(0)
        os.chown(path, user, user)
        os.seteuid(user)


@pytest.mark.usefixtures("desk")
def test_a_read_only_directory_says_how_to_allow_writing(tmp_path, request):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o555)
    request.getfixturevalue("powerless")
    line = refused("budget", "set", "tenant:acme", "1usd", "--ledger", "shut/ledger.db")
    assert line.endswith("chmod u+wx shut")
    assert list(shut.iterdir()) == []


@pytest.mark.usefixtures("desk")
def test_a_read_only_file_says_how_to_allow_writing(tmp_path, request):
    (tmp_path / "ledger.db").chmod(0o444)
    before = (tmp_path / "ledger.db").read_bytes()
    request.getfixturevalue("powerless")
    own(tmp_path / "ledger.db")
    line = refused("budget", "set", "tenant:acme", "9usd", *LEDGER)
    assert "chmod" in line
    assert (tmp_path / "ledger.db").read_bytes() == before


@pytest.mark.usefixtures("desk")
def test_a_data_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    env = {"XDG_DATA_HOME": str(Path("file").absolute())}
    assert "COMPTROLLER_LEDGER" in refused("budget", "list", env=env)


@pytest.mark.usefixtures("desk")
def test_a_defect_is_no_bad_input(monkeypatch):
    """What nobody expects is not dressed as somebody's mistake: it keeps its traceback."""

    def defect(*_, **__):
        raise LookupError("ours")

    monkeypatch.setattr("comptroller.cli.parsing.ledger", defect)
    result = call("budget", "list")
    assert isinstance(result.exception, LookupError)


@pytest.mark.usefixtures("desk")
def test_what_was_there_before_bad_input_is_there_after_it():
    refused(*run("desk:agent", "--budget", "5usd"))
    assert "$1.00" in done("budget", "list", *LEDGER)
