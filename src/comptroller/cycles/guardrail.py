"""`cycles_budget_guardrail`: asks the ledger before the agent runs, and costs no token on a DENY.

The SDK runs input guardrails beside the first model call unless they say otherwise: this one says
`run_in_parallel=False`, so on a DENY the model is not asked at all.
"""

import logging
from typing import Any
from uuid import uuid4

from agents import Agent, GuardrailFunctionOutput, InputGuardrail, RunContextWrapper
from runcycles import Action, AsyncCyclesClient, CyclesConfig, DecisionRequest, Unit

from comptroller.cycles.config import subject_of
from comptroller.cycles.ledger_pool import LedgerPool
from comptroller.errors import CallDenied, ComptrollerError, LedgerUnreachable
from comptroller.money import amount

log = logging.getLogger("comptroller")


def cycles_budget_guardrail(
    *,
    client: AsyncCyclesClient | None = None,
    config: CyclesConfig | None = None,
    tenant: str | None = None,
    workspace: str | None = None,
    app: str | None = None,
    estimate: int = 0,
    unit: Unit = Unit.USD_MICROCENTS,
    fail_open: bool = True,
) -> InputGuardrail[Any]:
    """Make an input guardrail that trips where the ledger would not grant `estimate`.

    Args:
        client: whom to ask: an `AsyncCyclesClient`, or `as_client(ledger)`.
        config: the server to ask where no client is given; else the `CYCLES_*` environment.
        tenant: who is asked for; from the config where unset, as the next two.
        workspace: see `tenant`.
        app: see `tenant`.
        estimate: what the run is expected to cost, in `unit`.
        unit: USD_MICROCENTS: 100,000,000 are a dollar.
        fail_open: let the agent run where the ledger does not answer or answers 5xx. A denial, or
            any 4xx, always trips it.

    Raises:
        TypeError, ValueError: a setting that makes no sense, or no server is named.
    """
    lender = LedgerPool(client, config)
    subject = subject_of(lender.config, tenant=tenant, workspace=workspace, app=app)
    expected = amount(unit, estimate, shown=f"estimate={estimate!r}")

    async def check(
        context: RunContextWrapper[Any], agent: Agent[Any], given: Any
    ) -> GuardrailFunctionOutput:
        del context, given
        request = DecisionRequest(
            idempotency_key=uuid4().hex,
            subject=subject,
            action=Action(kind="agent.run", name=agent.name[:256]),
            estimate=expected,
        )
        async with lender.open() as ledger:
            try:
                answer = await ledger.decide(request)
            except ComptrollerError as refusal:
                return _refused(refusal, fail_open=fail_open)
        if answer.is_denied():
            return _told(tripped=True, decision="DENY", reason=answer.reason_code or "DENY")
        return _told(tripped=False, decision=answer.decision.value)

    return InputGuardrail(guardrail_function=check, name="cycles_budget", run_in_parallel=False)


def _refused(refusal: ComptrollerError, *, fail_open: bool) -> GuardrailFunctionOutput:
    if fail_open and isinstance(refusal, LedgerUnreachable):
        log.warning("the budget guardrail lets the agent run: %s", refusal)
        return _told(tripped=False, decision="ALLOW", reason="fail_open")
    if isinstance(refusal, CallDenied):
        return _told(tripped=True, decision="DENY", reason=refusal.reason_code or str(refusal))
    return _told(tripped=True, reason=str(refusal))


def _told(*, tripped: bool, **info: str) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=info, tripwire_triggered=tripped)
