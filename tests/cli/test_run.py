"""`comptroller run`: an agent, its budget, its receipt, its exit code."""

import json
import re

import pytest

from support.cli import call, done, refused

LEDGER = ("--ledger", "ledger.db")
pytestmark = pytest.mark.usefixtures("desk")


def run(agent, *options, tenant="acme"):
    return call("run", f"desk:{agent}", "hi", "--tenant", tenant, *options)


def as_json(agent, *options):
    result = run(agent, "--json", *LEDGER, *options)
    return result.exit_code, json.loads(result.stdout), result.stderr


def acme():
    [budget] = json.loads(done("budget", "list", "--tenant", "acme", "--json", *LEDGER))
    return {name: budget[name]["amount"] for name in ("spent", "reserved", "remaining")}


def test_the_answer_then_the_receipt_on_stdout_and_progress_on_stderr():
    result = run("agent", *LEDGER)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.startswith("All is [red]well[/red].\nReally.\n")
    [first] = [line for line in lines if line[:1] == ["llm-1"]]
    assert first[1:4] == ["Triage", "agent", "desk:gpt-4.1-mini"]
    assert first[5:] == ["$0.000432", "1,000+20", "committed"]
    assert ["in", "all", "$0.000864", "2,000+40"] in lines
    assert [line.split()[3:] for line in result.stderr.splitlines()] == [
        ["desk:gpt-4.1-mini", "committed", "$0.000432"],
        ["look", "unreserved", "-"],
        ["desk:gpt-4.1-mini", "committed", "$0.000432"],
    ]


def test_what_the_receipt_says_is_what_the_ledger_spent():
    _, shown, _ = as_json("agent")
    assert shown["receipt"]["charged"] == {"USD_MICROCENTS": 86_400, "usd": "0.000864"}
    assert acme() == {"spent": 86_400, "reserved": 0, "remaining": 10**8 - 86_400}


def test_json_is_all_there_is_on_stdout():
    code, shown, err = as_json("agent")
    assert (code, err) == (0, "")
    assert (shown["status"], shown["error"]) == ("completed", None)
    assert shown["output"] == "All is [red]well[/red].\nReally."
    assert [line["kind"] for line in shown["receipt"]["calls"]] == [
        "llm.completion", "tool.invoke", "llm.completion",
    ]  # fmt: skip


def test_a_stream_is_printed_once():
    result = run("agent", "--stream", *LEDGER)
    assert result.exit_code == 0
    assert result.stdout.count("All is [red]well[/red].\nReally.\n") == 1
    assert result.stderr == ""
    assert as_json("make", "--stream")[1]["output"] == "made"


def test_further_fields_of_the_subject():
    code, _, _ = as_json("agent", "--workspace", "prod", "--app", "shop", "--workflow", "w")
    assert code == 0
    newest = json.loads(done("reservations", "--json", "--limit", "1", *LEDGER))[0]
    assert newest["scope_path"] == (
        "tenant:acme/workspace:prod/app:shop/workflow:w/agent:triage-agent"
    )


def test_an_estimate_of_ones_own():
    _, shown, _ = as_json("agent", "--llm-estimate", "0.01usd")
    assert shown["receipt"]["calls"][0]["reserved"]["amount"] == 10**6


def test_a_budget_for_a_ledger_in_memory():
    result = run("agent", "--ledger", "memory:", "--budget", "1usd")
    assert result.exit_code == 0


def test_a_budget_that_is_there_is_not_changed_in_passing():
    assert run("agent", "--budget", "1usd", *LEDGER).exit_code == 0
    line = refused("run", "desk:agent", "hi", "--tenant", "acme", "--budget", "2usd", *LEDGER)
    assert "comptroller budget set tenant:acme 2usd --ledger ledger.db" in line
    assert acme()["remaining"] < 10**8


def test_a_budget_that_runs_out_is_3_with_the_one_line_of_the_denial():
    result = run("loop", "--ledger", "memory:", "--budget", "0.01usd")
    assert result.exit_code == 3
    assert re.fullmatch(
        r"comptroller: acme: \$0\.00\d+ requested for gpt-4\.1-mini by agent Loop, \$0\.006544 left"
        r" of \$0\.01 \(tenant:acme\) \(worst case: 4,096 output tokens; set .*\)",
        result.stderr.splitlines()[-1],
    )
    assert "denied" in result.stdout
    assert result.stdout.count("requested") == 0  # the reason stands once, on stderr


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (("--max-llm-calls", "2"), "llm_calls=2"),
        (("--max-tool-calls", "1"), "tool_calls=1"),
        (("--max-spend", "0.007usd"), "limit of $0.007"),
    ],
)
def test_a_limit_is_3(limit, says):
    code, shown, err = as_json("loop", *limit)
    assert code == 3
    assert says in shown["error"]["message"]
    assert (shown["status"], shown["error"]["reason_code"]) == ("denied", "LIMIT_REACHED")
    assert err == f"comptroller: {shown['error']['message']}\n"
    assert acme()["reserved"] == 0


def test_a_limit_of_seconds_is_3():
    code, shown, _ = as_json("sleeper", "--max-seconds", "0.05")
    assert code == 3
    assert "0.05 seconds" in shown["error"]["message"]
    assert acme()["reserved"] == 0


def test_too_many_turns_is_a_run_that_failed():
    code, shown, _ = as_json("loop", "--max-turns", "2")
    assert (code, shown["error"]["type"]) == (1, "MaxTurnsExceeded")


def test_what_the_agent_raises_is_1_in_one_line():
    code, shown, err = as_json("failing")
    assert (code, shown["status"]) == (1, "failed")
    assert err == "comptroller: the run failed: ZeroDivisionError: the agent itself\n"
    assert acme()["reserved"] == 0


@pytest.mark.parametrize(
    ("agent", "error"), [("failing", "ZeroDivisionError"), ("cannot", "KeyError")]
)
@pytest.mark.parametrize("option", ["--debug", "-v"])
def test_a_traceback_is_shown_when_asked_for(agent, error, option):
    """Both of what the agent raises and of what its module does; the one line comes last."""
    err = run(agent, option, *LEDGER).stderr
    assert "Traceback" in err
    assert error in err
    assert err.splitlines()[-1].startswith("comptroller: ")


def test_a_ledger_that_does_not_answer_is_1():
    result = call(
        "run", "desk:agent", "hi", "--tenant", "acme", "--ledger", "http://127.0.0.1:9",
        env={"CYCLES_API_KEY": "key"},
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("comptroller: http://127.0.0.1:9")


def test_an_output_that_is_no_text_is_shown_as_json(desk):
    (desk / "typed.py").write_text(
        "import desk\n"
        "from pydantic import BaseModel\n"
        "class Found(BaseModel):\n"
        "    count: int\n"
        "def make():\n"
        "    return desk.an_agent(desk.says('{\"count\": 3}'), output_type=Found)\n"
    )
    plain = call("run", "typed:make", "hi", "--tenant", "acme", *LEDGER)
    assert plain.stdout.startswith('{\n  "count": 3\n}\n')
    shown = call("run", "typed:make", "hi", "--tenant", "acme", "--json", *LEDGER)
    assert json.loads(shown.stdout)["output"] == {"count": 3}


def test_a_run_that_waits_for_an_approval_says_so(desk):
    (desk / "careful.py").write_text(
        "import desk\n"
        "from agents import function_tool\n"
        "@function_tool(needs_approval=True)\n"
        "async def delete(n: int) -> str:\n"
        "    return 'gone'\n"
        "agent = desk.an_agent(desk.calls('delete'), desk.says('done'))\n"
        "agent.tools = [delete]\n"
    )
    result = call("run", "careful:agent", "hi", "--tenant", "acme", *LEDGER)
    assert result.exit_code == 1
    assert "approval of delete" in result.stderr.splitlines()[-1]
