"""Imports point downwards only, in no circle, and each layer keeps to its tools.

Read from the syntax tree: imports inside functions and those for type checkers count like others.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.alike

ROOT = Path(__file__).parents[1] / "src"

LAYERS = [  # the lowest first; a name is a module or a package under `comptroller`
    {"_frozen", "_interrupts", "_validation", "_private_files"},
    {"errors", "money"},
    {"_ownership", "policy", "core"},  # a policy is checked by the price book that it names
    {"receipts"},
    {"ledger"},
    {"server", "runtime"},
    {"openai_agents"},
    {"_eventloop", "_trio_loop", "runs", "supervisor", "cycles"},
    {"testing"},  # beside the public scopes: for users' tests, used by nothing below
    {""},  # comptroller/__init__.py: the public API
    {"cli", "demo", "__main__"},
]

WAITING = ["anyio", "asyncio", "trio", "trio_asyncio", "threading", "multiprocessing", "concurrent"]
WORLD = ["os", "io", "pathlib", "shutil", "tempfile", "subprocess", "signal", "sqlite3", "logging"]
NETWORK = ["agents", "socket", "select", "selectors", "ssl", "http", "urllib", "httpx"]
CHANCE = ["time", "random", "secrets", "uuid"]
NO_VALUES = [*WAITING, *WORLD, *NETWORK, *CHANCE]

FORBIDDEN = {  # layer -> what its files may not import
    "money": NO_VALUES,
    "policy": NO_VALUES,
    "errors": ["anyio", "asyncio", "trio", "trio_asyncio"],
    "core": NO_VALUES,
    "ledger": ["agents", "asyncio", "trio", "trio_asyncio"],
    "server": ["agents", "trio", "trio_asyncio"],
    "runtime": ["agents", "asyncio", "trio", "trio_asyncio"],
}

SHARED = tuple(
    f"comptroller.{name}"
    for name in (
        "ledger.interface", "ledger.models", "ledger.protocol", "ledger.remote", "ledger.webhooks",
        "ledger.cycles_client", "ledger.api_keys", "runtime",
    )
)  # fmt: skip
IMPLEMENTATIONS = tuple(
    f"comptroller.ledger.{name}" for name in ("engine", "embedded", "sqlite", "factory")
)

EXCEPTIONS: dict[tuple[str, str], str] = {  # (module, what it imports all the same): why
    ("comptroller.core.estimates", "threading"): "a lock: what is learned serves all threads",
    ("comptroller.ledger.daemon_threads", "asyncio"): "anyio's keep a process from its end",
    ("comptroller.ledger.remote.connections", "asyncio"): "to ask which flavour of loop is running",
}

TRIO_AT_THE_HEAD = {  # trio is optional: elsewhere it is imported inside functions
    "comptroller.testing.virtual_time.trio_clock": "imported by `virtual_backend` for trio alone",
    "comptroller._trio_loop": "imported by `open_host` for trio alone",
}


def sources() -> dict[str, str]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text("utf-8")
    return found


def is_package(module: str) -> bool:
    return ROOT.joinpath(*module.split("."), "__init__.py").is_file()


def imports(module: str, text: str, known: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """What `module` imports, as dotted names, and whether at its head or inside a function."""
    tree = ast.parse(text)
    inside = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        at_head = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_head
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield submodule if submodule in known else source, at_head


def absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if is_package(module) else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def layer(module: str) -> str:
    return ".".join(module.split(".")[1:2])


def rank(module: str) -> int:
    for height, names in enumerate(LAYERS):
        if layer(module) in names:
            return height
    raise AssertionError(f"{module}: give it a layer in tests/test_layers.py")


def upward(modules: Mapping[str, str]) -> list[str]:
    """Imports of a higher layer, and of an implementation where only the interface is meant."""
    found = []
    for module, text in modules.items():
        for name, _ in imports(module, text, modules):
            if name.partition(".")[0] != "comptroller":
                continue
            past_interface = layer(module) == "runtime" and layer(name) == "ledger"
            if rank(name) > rank(module) or (
                past_interface and name != "comptroller.ledger.interface"
            ):
                found.append(f"{module} imports {name}")
    return found


def forbidden(modules: Mapping[str, str]) -> list[str]:
    """Imports of a tool that the layer may not touch."""
    found = []
    for module, text in modules.items():
        for name, at_head in imports(module, text, modules):
            top = name.partition(".")[0]
            late = top not in ("trio", "trio_asyncio") or not at_head or module in TRIO_AT_THE_HEAD
            banned = top in FORBIDDEN.get(layer(module), ())
            if (banned and (module, top) not in EXCEPTIONS) or not late:
                found.append(f"{module} imports {name}")
    return found


def past_the_models(modules: Mapping[str, str]) -> list[str]:
    """What every ledger shares stands on no implementation: imports that say otherwise."""
    return [
        f"{module} imports {name}"
        for module, text in modules.items()
        if module.startswith(SHARED)
        for name, _ in imports(module, text, modules)
        if name.startswith(IMPLEMENTATIONS)
    ]


def circle(modules: Mapping[str, str]) -> list[str]:
    """The names along one circle of imports, or nothing."""
    edges = {
        module: sorted({name for name, _ in imports(module, text, modules) if name in modules})
        for module, text in modules.items()
    }
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for name in edges[module]:
                if found := visit(name, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := visit(module, []))), [])


def clocks_and_waits(text: str) -> list[str]:
    """What waits or reads the clock of the machine without importing anything for it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            found.append(f"line {node.lineno} is asynchronous")
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"):
            found.append(f"line {node.lineno} asks for .{node.attr}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "print", "input"):
            found.append(f"line {node.lineno} calls {ast.unparse(node.func)}")
    return found


def test_imports_point_downwards_only():
    assert upward(sources()) == []


def test_what_all_ledgers_share_stands_on_none_of_them():
    assert past_the_models(sources()) == []
    text = "def f():\n    from ..engine import reserve"
    wrong = {"comptroller.ledger.protocol.x": text, "comptroller.ledger.engine.reserve": ""}
    assert len(past_the_models(wrong)) == 1


def test_no_imports_run_in_a_circle():
    assert circle(sources()) == []


def test_each_layer_keeps_to_its_tools():
    assert forbidden(sources()) == []


def test_what_decides_does_not_wait_and_knows_no_clock():
    pure = {name: text for name, text in sources().items() if layer(name) == "core"}
    assert pure
    assert {name: found for name, text in pure.items() if (found := clocks_and_waits(text))} == {}


def test_every_exception_is_needed():
    """An exception whose import has gone goes, too."""
    modules = sources()
    for module, top in EXCEPTIONS:
        found = {name.partition(".")[0] for name, _ in imports(module, modules[module], [])}
        assert top in found, f"{module} does not import {top} any more"
    for module in TRIO_AT_THE_HEAD:
        assert ("trio", True) in set(imports(module, modules[module], []))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("comptroller.money", "from .core import call_lifecycle"),
        ("comptroller.core.x", "def f():\n    from ..ledger import interface"),
        ("comptroller.runtime.x", "from ..ledger.embedded import memory"),
        ("comptroller.runtime.x", "from comptroller.openai_agents.model import M"),
        ("comptroller.ledger.x", "import comptroller"),
    ],
)
def test_an_import_upwards_is_found(module, text):
    """The checker itself: relative, absolute, at the head and inside a function."""
    known = dict.fromkeys(
        ["comptroller.ledger.embedded.memory", "comptroller.core.call_lifecycle"], ""
    )
    assert len(upward({**known, module: text})) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("comptroller.core.x", "import os.path"),
        ("comptroller.core.x", "if TYPE_CHECKING:\n    from anyio.abc import TaskGroup"),
        ("comptroller.runtime.x", "def f():\n    import trio"),
        ("comptroller.runs", "import trio_asyncio"),
    ],
)
def test_a_forbidden_tool_is_found(module, text):
    assert len(forbidden({module: text})) == 1


def test_a_circle_is_found():
    """`b` is imported for type checkers only, and counts."""
    a, b = "comptroller.core.a", "comptroller.core.b"
    text = "if TYPE_CHECKING:\n    from .b import B"
    assert circle({a: text, b: "def f():\n    from . import a"}) == [a, b, a]
    assert circle({a: text, b: "import math"}) == []


@pytest.mark.parametrize("text", ["async def f(): ...", "x = datetime.now(UTC)", "open('x')"])
def test_a_hidden_wait_or_clock_is_found(text):
    assert len(clocks_and_waits(text)) == 1
