"""The SDK's Codex tool: an agent in a process of its own, whose model nobody here is asked for.

What it used is known when it comes back: that is charged then, at the price of its model.
"""

from datetime import UTC, datetime
from typing import Any

import attrs

from comptroller.core.estimates import CHARACTERS_PER_TOKEN, LlmRequest
from comptroller.core.pricing import Billing, TokenCount
from comptroller.openai_agents.billing import field_of, token_count
from comptroller.openai_agents.sdk_internals import codex_options, codex_result
from comptroller.runtime.call import CallRequest

UNTOLD = "it came back without saying what its model used: that is not charged"

_DEFAULT = "codex:default"
"""The model of a thread whose options name none: Codex's own settings do. It has no known price."""


@attrs.frozen
class Turn:
    """What came back of a Codex tool.

    Attributes:
        draft: its model's part of the tool's call.
        used: its tokens, None where it did not say.
        known: whether it ran to its end, and that reached us.
    """

    draft: CallRequest
    used: TokenCount | None
    known: bool


def turn_of(tool: Any, result: Any, asked: CallRequest) -> Turn | None:
    """Return what Codex did in the call `asked` of `tool`; None where that does not run Codex."""
    is_codex, answer = codex_result(tool, result)
    if not is_codex:
        return None
    thread, client = codex_options(tool)
    model = field_of(thread, "model")
    name = f"openai:{model}" if isinstance(model, str) and model else _DEFAULT
    url = field_of(client, "base_url")
    used = token_count(field_of(answer, "usage"))
    request = LlmRequest(
        model=name,
        agent=asked.agent,
        input_characters=used.input * CHARACTERS_PER_TOKEN if used else 0,
        max_tokens=used.output if used else None,
        billing=Billing(url=url if isinstance(url, str) else None, at=datetime.now(UTC)),
    )
    draft = attrs.evolve(asked, kind="event", name=name, request=request, tells_model=False)
    return Turn(draft, used, answer is not None)
