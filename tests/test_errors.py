"""Every exception says whose fault it is, crosses the SDK as it is, and survives copying."""

import copy
import inspect
import pickle

import agents
import pytest
import runcycles
from agents import Agent, RunHooks, Runner
from runcycles import ErrorCode, Unit

from comptroller import errors
from comptroller.cycles.errors import as_seen
from comptroller.errors import (
    BudgetExceeded,
    BudgetNotFound,
    CallDenied,
    ComptrollerError,
    CredentialsMissing,
    LedgerMisbehaved,
    LedgerRefused,
    LedgerUnreachable,
    LimitReached,
    RunCancelled,
    ToolDenied,
    UnitMismatch,
    refusal,
)
from comptroller.openai_agents.errors import for_sdk
from comptroller.testing import CountingModel

PUBLIC = [
    kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, ComptrollerError) and not name.startswith("_")
]
DENIAL = {
    "reason_code": "BUDGET_EXCEEDED",
    "run_id": "run-1",
    "call": "call-2",
    "scope": "tenant:acme",
    "unit": Unit.TOKENS,
    "requested": 50,
    "remaining": 20,
}
ANSWER = {
    "status": 409,
    "error_code": "BUDGET_FROZEN",
    "details": {"scope": "tenant:acme"},
    "request_id": "req-3",
    "retry_after_ms": 500,
}


def test_there_is_something_to_test():
    assert {BudgetExceeded, LedgerUnreachable, RunCancelled} < set(PUBLIC)


@pytest.mark.parametrize("kind", PUBLIC)
def test_everything_raised_here_may_cross_the_sdk(kind):
    error = for_sdk(kind("a line"))
    assert isinstance(error, kind)
    assert isinstance(error, ComptrollerError)
    assert for_sdk(error) is error
    assert isinstance(error, agents.AgentsException)
    assert str(error) == "a line"
    assert error.run_data is None  # where the SDK attaches what it knows of the run
    assert (error.receipt, error.run_id) == (None, None)
    assert kind.__doc__


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("kind", PUBLIC)
async def test_the_sdk_hands_it_on_unwrapped_and_attaches_its_run_data(kind):
    """An exception of another kind, raised in a hook, would arrive as a `UserError`."""

    class Refusing(RunHooks):
        async def on_llm_start(self, *args):
            raise error

    error = for_sdk(kind("not now"))
    with pytest.raises(kind) as raised:
        await Runner.run(Agent("Clerk", model=CountingModel()), "hello", hooks=Refusing())
    assert raised.value is error
    assert error.run_data is not None


def test_a_denial_is_caught_as_the_cycles_sdk_s_own():
    error = BudgetExceeded("too little left", **DENIAL, **{**ANSWER, "error_code": "X"})
    assert isinstance(error, CallDenied)
    assert isinstance(error, runcycles.BudgetExceededError)
    assert isinstance(error, runcycles.CyclesProtocolError)
    assert not isinstance(LimitReached("x"), runcycles.CyclesProtocolError)
    assert not isinstance(ToolDenied("x"), runcycles.CyclesProtocolError)


@pytest.mark.parametrize("kind", [CallDenied, LimitReached, ToolDenied, BudgetExceeded])
def test_a_denial_carries_what_was_asked_and_what_was_left(kind):
    error = kind("a line", **DENIAL)
    assert {name: getattr(error, name) for name in DENIAL} == DENIAL


def test_a_denial_of_the_ledger_carries_its_answer():
    error = BudgetExceeded("a line", **ANSWER)
    assert {name: getattr(error, name) for name in ANSWER} == ANSWER
    assert error.reason_code == "BUDGET_FROZEN"
    assert not error.is_budget_exceeded()
    assert BudgetExceeded("a line").is_budget_exceeded()
    assert BudgetExceeded("a line", reason_code="OWN").reason_code == "OWN"


def test_a_cancellation_says_why():
    assert RunCancelled("user closed the tab").reason == "user closed the tab"


@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize(
    "travel", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
@pytest.mark.parametrize("seen", [lambda error: error, for_sdk, as_seen])
def test_an_error_survives_copying_and_pickling(kind, travel, seen):
    """As it happens on the way from a worker process."""
    settings = {
        **(DENIAL if issubclass(kind, CallDenied) else {}),
        **(ANSWER if "status" in inspect.signature(kind.__init__).parameters else {}),
    }
    error = seen(kind("a line", **settings))
    error.receipt = {"calls": 1}
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert isinstance(arrived, kind)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize(
    ("status", "code", "asks", "kind"),
    [
        (-1, None, True, LedgerUnreachable),
        (500, "INTERNAL_ERROR", False, LedgerUnreachable),
        (503, "BUDGET_EXCEEDED", True, LedgerUnreachable),  # a 5xx says nothing about budget
        (409, "BUDGET_EXCEEDED", True, BudgetExceeded),
        (409, "BUDGET_FROZEN", True, BudgetExceeded),
        (409, "BUDGET_CLOSED", True, BudgetExceeded),
        (409, "OVERDRAFT_LIMIT_EXCEEDED", True, BudgetExceeded),
        (409, "DEBT_OUTSTANDING", True, BudgetExceeded),
        (409, "TENANT_CLOSED", True, BudgetExceeded),
        (400, "UNIT_MISMATCH", True, UnitMismatch),
        (404, "NOT_FOUND", True, BudgetNotFound),
        (404, "BUDGET_NOT_FOUND", True, BudgetNotFound),
        (404, "NOT_FOUND", False, LedgerRefused),  # the reservation, not the budget
        (400, "INVALID_REQUEST", True, LedgerRefused),
        (401, "UNAUTHORIZED", True, LedgerRefused),
        (403, "FORBIDDEN", True, LedgerRefused),
        (410, "RESERVATION_EXPIRED", False, LedgerRefused),
        (409, "RESERVATION_FINALIZED", False, LedgerRefused),
        (409, "IDEMPOTENCY_MISMATCH", False, LedgerRefused),
        (409, "MAX_EXTENSIONS_EXCEEDED", False, LedgerRefused),
        (429, "LIMIT_EXCEEDED", False, LedgerRefused),
        (418, "TEAPOT", True, LedgerMisbehaved),
        (404, None, False, LedgerMisbehaved),
        (302, None, False, LedgerMisbehaved),
    ],
)
def test_an_answer_that_is_no_success_becomes_the_error_of_whose_fault_it_is(
    status, code, asks, kind
):
    error = refusal("a line", status=status, error_code=code, asks_for_budget=asks)
    assert type(error) is kind
    assert (error.status, error.error_code) == (status, code)


def test_every_code_of_the_protocol_is_understood():
    """A new code in `runcycles` has to be placed; the two left out are none of a 4xx."""
    for code in set(ErrorCode) - {ErrorCode.UNKNOWN, ErrorCode.INTERNAL_ERROR}:
        error = refusal("a line", status=409, error_code=code.value, asks_for_budget=True)
        assert not isinstance(error, LedgerMisbehaved), code


def test_a_refusal_carries_the_answer_s_fields():
    error = refusal("a line", asks_for_budget=False, **{**ANSWER, "error_code": "FORBIDDEN"})
    assert (error.details, error.request_id, error.retry_after_ms) == (
        {"scope": "tenant:acme"},
        "req-3",
        500,
    )
    assert refusal("x", status=404, error_code=None, asks_for_budget=False).details == {}


def test_a_missing_key_is_the_caller_s_and_no_answer_of_a_ledger():
    assert not hasattr(CredentialsMissing("acme has no key for http://ledger"), "status")
