"""Sizes and habits that the linter does not hold."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.alike

ROOT = Path(__file__).parents[1]
MODULE_LINES, FUNCTION_LINES, MOST_FUNCTIONS_LINES = 400, 60, 30
LONG_SLEEP = 0.2  # seconds

DETACHED_TASKS: dict[str, str] = {  # file under src/comptroller: why it may start a bare task
    "_eventloop.py": "a scope that frameworks leave in another task; its exit waits",
    "_trio_loop.py": "the loop of a whole trio program: trio ends it with the program's main task",
}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Each function's name and its lines, from `def` to its last one."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def unowned(text: str) -> list[int]:
    """Lines that start a task which no group owns."""
    starters = ("create_task", "ensure_future", "spawn_system_task", "start_guest_run")
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in starters
    ]


def swallowed(text: str) -> list[int]:
    """Handlers that catch everything, cancellation included, and do not raise again."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) == "BaseException"
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if node.type is None or (everything and not raises):
                found.append(node.lineno)
    return found


def unfinished(text: str) -> list[str]:
    """Words that promise work, and coverage switched off."""
    words = r"pragma: no cover|\b(?:TODO|FIXME|XXX)\b|NotImplementedError"
    return re.findall(words, text)


def long_sleeps(text: str) -> list[int]:
    """`time.sleep` with a figure: no clock of ours can shorten it."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "time.sleep"
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value >= LONG_SLEEP
    ]


def offenders(check, paths: list[Path]) -> dict[str, list[object]]:
    assert paths
    found = {str(path.relative_to(ROOT)): check(path.read_text("utf-8")) for path in paths}
    return {path: what for path, what in found.items() if what}


def test_no_module_is_long():
    lines = {path: path.read_text("utf-8").count("\n") for path in files("src")}
    assert {path: length for path, length in lines.items() if length > MODULE_LINES} == {}


def test_functions_fit_a_glance():
    """None over 60 lines with its docstring; nine of ten within 30."""
    sizes = {
        f"{path.relative_to(ROOT)}: {name}": length
        for path in files("src")
        for name, length in functions(path.read_text("utf-8"))
    }
    assert {name: length for name, length in sizes.items() if length > FUNCTION_LINES} == {}
    assert statistics.quantiles(sizes.values(), n=10)[-1] <= MOST_FUNCTIONS_LINES


def test_no_task_is_without_an_owner():
    """The exceptions are named, each with its reason, and each is still there."""
    found = offenders(unowned, files("src"))
    assert set(found) == {f"src/comptroller/{name}" for name in DETACHED_TASKS}


def test_nothing_swallows_a_cancellation():
    assert offenders(swallowed, files("src")) == {}


def test_nothing_is_left_unfinished():
    this = Path(__file__)
    paths = [path for path in files("src", "tests") if path != this]
    assert offenders(unfinished, paths) == {}


def test_no_test_sleeps_for_real():
    assert offenders(long_sleeps, files("tests")) == {}


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (unowned, "asyncio.create_task(work())"),
        (unowned, "loop.create_task(work())"),
        (unowned, "ensure_future(work())"),
        (swallowed, "try: ...\nexcept: raise"),
        (swallowed, "try: ...\nexcept BaseException: pass"),
        (unfinished, "pass  # pragma: no cover"),
        (unfinished, "# TODO: more"),
        (long_sleeps, "time.sleep(1.5)"),
    ],
)
def test_an_offence_is_found(check, text):
    """The checks themselves."""
    assert len(check(text)) == 1


def test_what_is_allowed_is_not_an_offence():
    assert swallowed("try: ...\nexcept BaseException:\n    undo()\n    raise") == []
    assert swallowed("try: ...\nexcept ValueError: pass") == []
    assert long_sleeps("time.sleep(0.05)") == []


RETIRED = {
    "active", "admission", "arguments", "aside", "attachments", "belonging", "callbacks",
    "carriage", "carried", "caution", "circuit", "clerk", "compat", "console", "courier",
    "deciding", "decide", "denials", "episode", "funding", "gate", "governed", "home", "host",
    "hub", "lazily", "lending", "lifecycle", "listing", "moments", "names", "opened", "opening",
    "operating", "owing", "owner", "parcels", "presence", "private_files", "repeated", "sending",
    "settling", "shelf", "shown", "supervision", "terms", "turns", "upkeep", "values", "verdicts",
}  # fmt: skip
"""Names that modules had before they were called by what is in them."""


def retired(text: str) -> list[str]:
    """The files that a text names by a retired name: `runtime/settling.py`, `ledger.parcels`."""
    named = re.findall(r"\b(?:\w+/)*(\w+)\.py\b|\bcomptroller(?:\.\w+)*\.(\w+)\b", text)
    return [name for pair in named for name in pair if name in RETIRED]


def test_no_module_has_a_retired_name():
    found = {path.stem for path in files("src")} | {path.parent.name for path in files("src")}
    assert found & RETIRED == set()


@pytest.mark.parametrize("text", ["see runtime/settling.py", "from comptroller.ledger.parcels"])
def test_a_retired_name_is_found(text):
    assert len(retired(text)) == 1


def test_no_text_sends_its_reader_to_a_retired_name():
    root = Path(__file__).parents[1]
    texts = [*files("src"), *(root / "docs").rglob("*.md"), *root.glob("*.md")]
    found = {str(path): retired(path.read_text("utf-8")) for path in texts}
    assert {path: names for path, names in found.items() if names} == {}
