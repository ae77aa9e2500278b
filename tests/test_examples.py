"""The examples run as their readers run them, and print what they promise."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from support import subprocesses

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOPBACK_ONLY = """
import sys
def refuse(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] != "127.0.0.1":
        raise PermissionError(f"an example tried to reach {args[1]}")
sys.addaudithook(refuse)
"""

PROMISED = {
    "basic_budget": [
        r"The capital of France is Paris\.",
        r"denied: globex: \$0\.005 requested for gpt-4\.1-mini by agent Assistant",
        r"llm-1 .* 400\+60 +committed",
        r"llm-1 .* denied \(tenant:globex",
        r"tenant:acme: \$0\.000512 of \$0\.500000 spent, \$0\.000000 reserved",
        r"tenant:globex: \$0\.000000 of \$0\.000010 spent, \$0\.000000 reserved",
    ],
    "tool_governance": [
        r"denied: acme: 50 risk points requested for tool send_email by agent Case resolver",
        r"emails sent: 1",
        r"tenant:acme: 60 risk points of 100 risk points spent, 0 risk points reserved",
        r"tenant:acme: \$0\.001024 of \$0\.500000 spent, \$0\.000000 reserved",
        r"A second email could not be sent",
        r"tool-2 .* search_knowledge .* unreserved",
        r"tool-6 .* update_crm +10 risk points +10 risk points .* committed",
        r"tool-8 .* send_email .* denied",
        r"emails sent: 1",
        r"tenant:globex: 60 risk points of 100 risk points spent, 0 risk points reserved",
        r"tenant:globex: \$0\.001280 of \$0\.500000 spent, \$0\.000000 reserved",
    ],
    "multi_agent": [
        r"Escalation: We are sorry",
        r"not begun: \{'decision': 'DENY', 'reason': 'BUDGET_EXCEEDED'\}",
        r"Escalation: We are sorry",
        r"event-\d .* Escalation .* recorded",
        r"not begun: globex: \$0\.05 requested for a run of agent Triage",
        r"tenant:acme: \$0\.003072 of \$0\.500000 spent, \$0\.000000 reserved",
        r"tenant:globex: \$0\.000000 of \$0\.040000 spent, \$0\.000000 reserved",
    ],
    "many_tenants": [
        *[r"acme: It is all on the page"] * 3,
        *[r"globex denied: globex: \$0\.0065\d+ requested"] * 3,
        *[r"initech: It is all on the page"] * 3,
        r"tenant:acme: \$0\.000768 of",
        r"tenant:globex: \$0\.000000 of",
        r"tenant:initech: \$0\.000768 of",
    ],
    "cancel": [
        r"cancelled: the user closed the tab",
        r"llm-1 .* abandoned \(estimate\) \(the user closed the tab\)",
        r"stopped: acme: the run's limit of 0\.5 seconds is over",
        r"timed out",
        r"tenant:acme: \$0\.\d+ of \$1\.000000 spent, \$0\.000000 reserved",
    ],
    "trio_host": [
        r"patience ended: True, events: \d+, run: cancelled",
        r"tenant:acme: \$0\.\d+ of \$0\.500000 spent, \$0\.000000 reserved",
    ],
    "sessions": [
        r"Hello, I am Ada\. -> Hello Ada!",
        r"What is my name\? -> You are Ada\.",
        r"remembered: 6 items",
        r"charged \$0\.000768",
        r"tenant:acme: \$0\.000768 of \$0\.500000 spent, \$0\.000000 reserved",
    ],
    "fastapi_backend": [
        r'acme asks: 200 \{"answer":"Once upon a time',
        r'globex asks: 402 \{"detail":"What is left of the budget does not cover',
        r'acme listens: 200 data: "Once ", and leaves',
        r"-- completed: run \w+ of acme: charged \$0\.000256",
        r"-- denied: run \w+ of globex: charged nothing",
        r"-- cancelled: run \w+ of acme: charged \$0\.0000",
        r"llm-1 .* abandoned",
    ],
}
"""Lines that each one prints, in this order."""

SAID = {"fastapi_backend": r"GET /ask: globex: \$0\.00\d+ requested for gpt-4\.1-mini .*\n"}
"""What they write to stderr; the others are silent there."""

OPTIONS = {"fastapi_backend": ["--try"]}
OF_THE_E2E_TESTS = {"local_model"}


@pytest.fixture
def run(tmp_path):
    """Runs an example in an empty place that it is to leave empty; gives what it printed."""
    place, hooks = tmp_path / "place", tmp_path / "hooks"
    place.mkdir()
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(LOOPBACK_ONLY)
    homes = dict.fromkeys(["HOME", "TMPDIR", "XDG_DATA_HOME"], str(place))
    own = {**homes, "PYTHONPATH": str(hooks), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(name, **settings):
        code, out, err = subprocesses.run(
            ["-W", "always::ResourceWarning", EXAMPLES / f"{name}.py", *OPTIONS.get(name, [])],
            cwd=place,
            env={**os.environ, **own, **settings},
            stdin=subprocess.DEVNULL,
        )
        assert code == 0
        assert re.fullmatch(SAID.get(name, ""), err)
        assert [left for left in place.rglob("*") if left.is_file()] == []
        return out

    return run


@pytest.mark.parametrize("name", PROMISED)
def test_it_runs_as_it_is_and_prints_what_is_true(name, run):
    printed = run(name)
    lines = iter(printed.splitlines())
    missing = [line for line in PROMISED[name] if not any(re.search(line, seen) for seen in lines)]
    assert missing == [], printed


def test_a_ledger_that_the_environment_names_is_used_and_keeps_its_budgets(run, tmp_path):
    ledger = str(tmp_path / "ledger.db")
    for spent in ("0.000512", "0.001024"):
        printed = run("basic_budget", COMPTROLLER_LEDGER=ledger)
        assert f"tenant:acme: ${spent} of $0.500000 spent, $0.000000 reserved" in printed


def test_every_example_is_run_and_described():
    names = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert names == set(PROMISED) | OF_THE_E2E_TESTS
    described = re.findall(
        r"^\| \[(\w+)\.py\]\(\1\.py\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE
    )
    assert set(described) == names
