"""What the documentation says is true: its programs run, its picture is drawn from the table."""

import json
import re
from pathlib import Path

import httpx
import pytest
from agents import set_default_openai_client
from openai import AsyncOpenAI

import comptroller
from comptroller import errors
from comptroller.core import call_lifecycle

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


PROGRAMS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"), 1)
]


def answer(request: httpx.Request) -> httpx.Response:
    """The Responses API, for any request: one sentence, 30 tokens."""
    return httpx.Response(
        200,
        json={
            "id": "resp_1",
            "object": "response",
            "created_at": 0,
            "model": json.loads(request.content)["model"],
            "output": [
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Because.", "annotations": []}],
                }
            ],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 20,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 10,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 30,
            },
        },
    )


@pytest.fixture
def provider(monkeypatch):
    """An OpenAI client that answers by itself, and the environment of a first program."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    client = AsyncOpenAI(
        api_key="not-a-key",
        http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )
    set_default_openai_client(client, use_for_tracing=False)
    yield
    from agents.models import _openai_shared

    _openai_shared._default_openai_client = None


@pytest.mark.parametrize("code", PROGRAMS)
def test_every_program_of_the_documentation_runs_as_it_is_written(
    code, provider, monkeypatch, tmp_path, capsys
):
    from typer.testing import CliRunner

    from comptroller.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPTROLLER_LEDGER", str(tmp_path / "default.db"))
    funded = CliRunner().invoke(app, ["budget", "set", "tenant:acme", "10usd"])
    assert funded.exit_code == 0, funded.output

    exec(compile(code, "documentation", "exec"), {"__name__": "__main__"})  # noqa: S102

    assert capsys.readouterr().out.strip()


def test_the_picture_of_a_calls_life_is_the_transition_table():
    assert blocks(ROOT / "README.md", "mermaid") == [call_lifecycle.diagram() + "\n"]


def test_every_error_is_documented():
    page = (ROOT / "docs" / "errors.md").read_text()
    public = [
        name
        for name in comptroller.__all__
        if isinstance(getattr(comptroller, name), type)
        and issubclass(getattr(comptroller, name), errors.ComptrollerError)
    ]
    assert len(public) > 10
    assert [name for name in public if f"`{name}`" not in page] == []


def test_every_setting_is_documented():
    page = (ROOT / "docs" / "settings.md").read_text()
    settings = [
        field.name
        for owner in (comptroller.Policy, comptroller.Limits)
        for field in owner.__attrs_attrs__
    ]
    assert [name for name in settings if f"`{name}`" not in page] == []


def test_every_outcome_is_documented():
    page = (ROOT / "docs" / "concepts.md").read_text()
    assert [o.value for o in call_lifecycle.Outcome if f"`{o.value}`" not in page] == []


def test_every_command_is_documented():
    from typer.main import get_command

    from comptroller.cli import app

    page = (ROOT / "docs" / "command-line.md").read_text()
    root = get_command(app)
    names = []
    for name, command in root.commands.items():
        names += [f"{name} {sub}" for sub in getattr(command, "commands", {})] or [name]
    assert len(names) > 4
    assert [name for name in names if f"comptroller {name}" not in page] == []


def test_the_project_names_nothing_of_the_machine_it_was_written_on():
    files = [p for p in ROOT.glob("**/*") if p.suffix in {".py", ".md", ".toml", ".jsonl"}]
    ours = [p for p in files if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    assert len(ours) > 50
    homes = re.compile(r"/(?:root|home|work|Users)/\w")
    assert [str(p) for p in ours if p != Path(__file__) and homes.search(p.read_text())] == []


PATHS = [
    pytest.param(page, path, id=f"{page.stem}-{path}")
    for page in [
        *PAGES,
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs" / "decisions").glob("*.md")),
    ]
    for path in sorted(set(re.findall(r"`((?:\w+/)+\w*(?:\.py)?|\w+\.py)`", page.read_text())))
]


@pytest.mark.parametrize(("page", "path"), PATHS)
def test_a_file_that_is_named_is_there(page, path):
    """From the top, or below the package, or among the examples."""
    places = [ROOT, ROOT / "src" / "comptroller", ROOT / "examples", page.parent]
    assert any((place / path).exists() for place in places), f"{page.name} names {path}"


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md"))], ids=str
)
def test_a_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_law_that_the_code_cites_is_written_down():
    laws = set(
        re.findall(r"^(\d+)\. ", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    )
    cited = {
        number
        for path in (ROOT / "src").rglob("*.py")
        for number in re.findall(r"\blaws? (\d+)", path.read_text(), re.IGNORECASE)
    }
    assert cited
    assert cited <= laws
