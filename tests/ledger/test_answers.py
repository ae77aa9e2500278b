"""Answers whose balances are made late, and requests as JSON, are what a reader expects."""

import copy
import pickle
import typing

import pytest
from pydantic import BaseModel
from runcycles import (
    Caps,
    CommitRequest,
    CommitResponse,
    CyclesMetrics,
    Decision,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationCreateResponse,
    ReservationExtendRequest,
    Subject,
    Unit,
)
from runcycles.models import CommitStatus

from comptroller.core.accounts import Account
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.engine.idempotency import canonical, has_chosen_names
from comptroller.ledger.engine.lazy_responses import (
    LazyCommitResponse,
    LazyReserveResponse,
    balances,
    lazy,
)
from support.requests import ACTION, amount, asking, committing, event

ACCOUNTS = (Account("tenant:acme", Unit.TOKENS, 100, spent=1, reserved=2),)
VALUES = {
    "decision": Decision.ALLOW,
    "affected_scopes": ["tenant:acme"],
    "reservation_id": "rsv_1_0",
}
WHOLE = ReservationCreateResponse.model_validate(VALUES | {"balances": balances(ACCOUNTS)})


def granted():
    return lazy(LazyReserveResponse, VALUES, ACCOUNTS)


@pytest.mark.parametrize(
    "read",
    [
        lambda answer: answer.balances,
        lambda answer: answer.model_dump(),
        lambda answer: answer.model_dump(mode="json", exclude_unset=True),
        lambda answer: answer.model_dump_json(exclude_none=True),
        dict,
        lambda answer: "spent=Amount(" in repr(answer) and "spent=Amount(" in str(answer),
        lambda answer: copy.deepcopy(answer).balances,
        lambda answer: copy.copy(answer).balances,
        lambda answer: answer.model_copy(update={"reason_code": "x"}).balances,
        lambda answer: pickle.loads(pickle.dumps(answer)).balances,
        lambda answer: ReservationCreateResponse.model_validate(answer.model_dump()),
    ],
)
def test_a_grant_reads_as_if_its_balances_had_been_there(read):
    assert read(granted()) == read(WHOLE)


def test_grants_are_equal_whoever_looked_at_their_balances():
    looked, other = (
        granted(),
        lazy(LazyReserveResponse, VALUES, (Account("tenant:acme", Unit.TOKENS, 99),)),
    )
    assert looked.balances[0].spent.amount == 1
    assert looked == granted() != other
    assert (
        lazy(LazyCommitResponse, {"status": CommitStatus.COMMITTED, "charged": amount(1)}, ())
        != looked
    )


def test_balances_may_be_replaced():
    answer = granted()
    answer.balances = None
    assert answer.model_dump()["balances"] is None


def test_a_grant_has_no_other_members():
    with pytest.raises(AttributeError, match="surprise"):
        granted().surprise  # noqa: B018
    assert isinstance(granted(), ReservationCreateResponse)
    assert not isinstance(granted(), CommitResponse)


@pytest.mark.anyio
async def test_every_answer_is_what_its_model_would_have_validated():
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000), caps=Caps(max_tokens=5))
        granted = await ledger.reserve(asking("a", 10))
        given_back = await ledger.reserve(asking("b", 10))
        answers = [
            granted,
            await ledger.reserve(asking("c", 10, dry_run=True)),
            await ledger.extend(
                granted.reservation_id,
                ReservationExtendRequest(idempotency_key="a", extend_by_ms=1_000),
            ),
            await ledger.commit(granted.reservation_id, committing("a", 7)),
            await ledger.release(given_back.reservation_id, ReleaseRequest(idempotency_key="b")),
            await ledger.record(event("d", 2_000)),
        ]
    for answer in answers:
        model = type(answer).__mro__[2]
        assert model.model_validate(answer.model_dump(), strict=True).model_dump() == (
            answer.model_dump()
        )
        assert model.model_validate_json(answer.model_dump_json(exclude_none=True))
    assert [type(answer).__mro__[2].__name__ for answer in answers] == [
        "ReservationCreateResponse",
        "ReservationCreateResponse",
        "ReservationExtendResponse",
        "CommitResponse",
        "ReleaseResponse",
        "EventCreateResponse",
    ]


def mappings(model, path=()):
    """Where a model takes members that it does not name."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from mappings(kind, (*path, name))
            elif typing.get_origin(kind) is dict or kind is dict:
                yield (*path, name)


@pytest.mark.parametrize(
    "model",
    [
        ReservationCreateRequest,
        CommitRequest,
        ReleaseRequest,
        ReservationExtendRequest,
        DecisionRequest,
        EventCreateRequest,
    ],
)
def test_every_mapping_of_a_request_is_known(model):
    known = {("metadata",), ("metrics", "custom"), ("subject", "dimensions")}
    assert set(mappings(model)) <= known


@pytest.mark.parametrize(
    ("request_", "same"),
    [
        (
            asking("k", 1, metadata={"a": 1, "b": {"c": 2, "d": 3}}),
            asking("k", 1, metadata={"b": {"d": 3, "c": 2}, "a": 1}),
        ),
        (
            asking("k", 1, dimensions={"a": "1", "b": "2"}),
            asking("k", 1, dimensions={"b": "2", "a": "1"}),
        ),
        (
            committing("k", 1, metrics=CyclesMetrics(custom={"a": 1, "b": 2})),
            committing("k", 1, metrics=CyclesMetrics(custom={"b": 2, "a": 1})),
        ),
        (
            EventCreateRequest(
                actual=amount(1), action=ACTION, subject=Subject(tenant="t"), idempotency_key="k"
            ),
            event("k", 1, tenant="t"),
        ),
    ],
)
def test_equal_requests_are_one_text_in_whatever_order_they_were_said(request_, same):
    assert canonical(request_) == canonical(same)


@pytest.mark.parametrize(
    "other",
    [
        asking("k", 2),
        asking("k", 1, metadata={"a": 1}),
        asking("k", 1, dimensions={"a": "1"}),
        asking("k", 1, ttl_ms=60_000),
        asking("k", 1, agent="a"),
    ],
)
def test_other_requests_are_other_texts(other):
    assert canonical(other) != canonical(asking("k", 1))
    assert not has_chosen_names(asking("k", 1))
