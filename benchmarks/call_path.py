"""How far a reader walks: the files and functions of ours that one governed call goes through.

    python benchmarks/call_path.py [--trace]

One answer of a scripted model, without tools, on a ledger in a file: from `run(...)` to its return,
counted by `sys.setprofile`. A switch: a function is entered that stands in another file than
the one entered before. `--trace` prints the walk itself.
"""

import argparse
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
from agents import Agent, Model, ModelResponse, Usage, set_tracing_disabled
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

import comptroller
from comptroller import governed_run, open_ledger, usd

ROOT = str(Path(comptroller.__file__).parent)


class Scripted(Model):
    """Answers as models do, in code that is not ours."""

    model = "gpt-4.1-mini"

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        """Say hello."""
        text = ResponseOutputText(annotations=[], text="hello", type="output_text")
        said = ResponseOutputMessage(
            id="m", content=[text], role="assistant", status="completed", type="message"
        )
        used = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)
        return ModelResponse(output=[said], usage=used, response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        """Do not: it is not asked for."""
        raise NotImplementedError


class Walk:
    """The calls of our functions, in their order.

    Attributes:
        steps: file and function, as each was entered.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []

    @property
    def switches(self) -> int:
        """How often a function of another file is entered than the one before."""
        return sum(one[0] != other[0] for one, other in pairwise(self.steps))

    def __call__(self, frame: Any, event: str, _: object) -> None:
        """Note an event of the interpreter."""
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(ROOT):
            self.steps.append((name.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname))


async def walked(path: Path) -> Walk:
    """The walk of one call, after a first one that has warmed up what is made once."""
    walk = Walk()
    async with open_ledger(path) as ledger:
        await ledger.set_budget("tenant:acme", usd("10"))
        agent = Agent("Clerk", model=Scripted())
        async with governed_run(agent, "acme", ledger=ledger) as run:
            await run("hello")
            sys.setprofile(walk)
            try:
                await run("hello")
            finally:
                sys.setprofile(None)
    return walk


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", action="store_true", help="print the walk itself")
    asked = parser.parse_args()
    set_tracing_disabled(True)
    with tempfile.TemporaryDirectory() as place:
        walk = anyio.run(walked, Path(place) / "ledger.db")
    if asked.trace:
        for file, function in walk.steps:
            print(f"{file:45} {function}")
    files = Counter(file for file, _ in walk.steps)
    print(
        f"{len(walk.steps)} calls of {len(set(walk.steps))} functions in {len(files)} files,"
        f" {walk.switches} switches from file to file"
    )


if __name__ == "__main__":
    main()
