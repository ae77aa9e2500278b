"""What is said about one call: before it (`CallRequest`, `Call`), and in answer (`CallGrant`)."""

from collections.abc import Callable
from typing import Literal

import attrs
from runcycles import Action, Amount, Caps, Subject

from comptroller.core.estimates import LlmRequest
from comptroller.core.pricing import Prices
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger, Outbox
from comptroller.policy import ActualFunction, Policy
from comptroller.runtime.pending_settlements import PendingSettlements
from comptroller.runtime.portal import LoopPortal

Kind = Literal["llm", "tool", "event", "check"]


@attrs.frozen(kw_only=True)
class CallRequest:
    """What the seam knows when a call is about to begin.

    Attributes:
        kind: an LLM request attempt, a local tool invocation, an event (something that happened
            already and is only recorded: a handoff, a tool that the provider ran), or a check:
            whether the ledger would grant an amount, asked before the run's first call.
        name: the tool, or `provider:model`; as the SDK spells it.
        agent: the agent's name, as the user spells it.
        episode: which `Runner.run` it belongs to, e.g. `1.2`: the second one under the first.
        attempt: 1, and more for the retries of one LLM request.
        request: what an estimate may look at; None for a tool.
        tells_model: a refusal is answered to the model, so it does not end the run.
    """

    kind: Kind
    name: str
    agent: str
    episode: str
    attempt: int = 1
    request: LlmRequest | None = None
    tells_model: bool = False


@attrs.frozen(kw_only=True)
class Call:
    """One call with its identity (law 2), made once and carried by its actor.

    Attributes:
        id: unique in its run, e.g. `llm-3`.
        key: run / execution / call: the idempotency keys of its messages begin with it (law 7).
        tenant: the effective tenant.
        subject, action: what the ledger is told.
        estimate: what is reserved. `estimate_source`: how it was found.
        assumed_output: the output tokens that a worst case assumes; None for any other estimate.
        actual: what a tool call really cost, where the user's map says how to tell.
    """

    id: str
    key: str
    run_id: str
    draft: CallRequest
    tenant: str
    subject: Subject
    action: Action
    estimate: Amount
    estimate_source: str
    assumed_output: int | None = None
    actual: ActualFunction | None = None
    metadata: dict[str, str] = attrs.Factory(dict)

    def message_key(self, verb: str) -> str:
        """Return the idempotency key of one message of this call."""
        return f"{self.key}/{verb}"


@attrs.frozen
class CallGrant:
    """The call may begin.

    Attributes:
        reservation_id: None where policy let it through without one; `waived` says why.
        caps: the conditions the ledger attached.
    """

    reservation_id: str | None = None
    caps: Caps | None = None
    waived: str | None = None


def as_it_is(refusal: ComptrollerError) -> ComptrollerError:
    """Return the refusal itself."""
    return refusal


@attrs.frozen(kw_only=True)
class RunContext:
    """Where and by which rules the calls of a run live: what their actors share.

    Attributes:
        outbox: keeps the charges that the ledger has not accepted; None: an actor sends them until
            its run's bound.
        as_seen: a refusal as the run's user is to catch it.
    """

    home: LoopPortal
    ledger: Ledger
    policy: Policy
    prices: Prices
    settling: PendingSettlements
    outbox: Outbox | None = None
    as_seen: Callable[[ComptrollerError], ComptrollerError] = as_it_is


Answer = CallGrant | BaseException
"""What the caller gets, exactly once: the grant, or the exception to raise."""
