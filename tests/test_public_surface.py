"""What users hold on to is written down, so that no change of the inside changes it unseen.

After a change that is meant: `python tests/test_public_surface.py` writes it down anew.
"""

import importlib
import inspect
import json
from enum import EnumType
from pathlib import Path

import pytest
from typer.main import get_command

from comptroller.cli import app
from comptroller.core.call_lifecycle import Outcome
from comptroller.core.pricing import TokenCount
from comptroller.money import tokens, usd
from comptroller.receipts import CallReceipt, Receipt

SURFACE = Path(__file__).parent / "data" / "public_surface.txt"
MODULES = (
    "comptroller",
    "comptroller.cycles",
    "comptroller.testing",
    "comptroller.testing.contract",
)

pytestmark = pytest.mark.alike


def surface():
    """All of it, as lines."""
    for module in MODULES:
        yield from exports(module)
    yield from commands(get_command(app), "comptroller")
    yield "# a receipt"
    yield from str(receipt()).splitlines()
    yield from json.dumps(receipt().to_dict(), indent=1).splitlines()


def exports(module):
    yield f"# {module}"
    package = importlib.import_module(module)
    for name in sorted(package.__all__):
        thing = getattr(package, name)
        if isinstance(thing, type):
            bases = ", ".join(base.__name__ for base in thing.__mro__[1:-1])
            yield f"class {name}({bases}){signature(thing)}"
            yield from (f"    {line}" for line in members(thing))
        elif callable(thing):
            yield f"{name}{signature(thing)}"
        else:
            yield name if inspect.ismodule(thing) else f"{name}: {type(thing).__name__}"


def members(kind):
    if issubclass(kind, BaseException) and kind.__module__.startswith("comptroller"):
        named = (name for name in dir(kind) if not hasattr(Exception, name))
        yield from sorted(name for name in named if not name.startswith("_"))
        return
    for name, member in sorted(vars(kind).items()):
        if not name.startswith("_"):
            yield f"{name}{signature(member)}" if callable(member) else name


def signature(thing):
    """Names and defaults: annotations name modules of ours, which may move."""
    if isinstance(thing, EnumType):  # each Python has its own
        return ""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    bare = [one.replace(annotation=one.empty) for one in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


def commands(command, path):
    yield f"# {path}"
    for parameter in command.params:
        given = [*parameter.opts, *parameter.secondary_opts]
        yield f"    {' '.join(given)} = {parameter.default!r}"
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, f"{path} {name}")


def receipt():
    asked = CallReceipt(
        id="llm-1", episode="e1", kind="llm.completion", agent="Support",
        name="openai:gpt-4.1-mini", reserved=usd("0.01"), actual=usd("0.002"),
        charged=usd("0.002"), actual_source="usage", tokens=TokenCount(input=400, output=60),
        outcome=Outcome.COMMITTED,
    )  # fmt: skip
    refused = CallReceipt(
        id="tool-1", episode="e1", kind="tool.invoke", agent="Support", name="refund",
        reserved=tokens(5), outcome=Outcome.DENIED, reason="0 of 0 tokens left",
    )  # fmt: skip
    return Receipt(run_id="r1", tenant="acme", calls=(asked, refused))


def test_the_public_surface_is_what_is_written_down():
    assert list(surface()) == SURFACE.read_text().splitlines()


if __name__ == "__main__":
    SURFACE.write_text("\n".join(surface()) + "\n")
