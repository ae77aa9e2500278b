"""Test doubles for code that runs under Comptroller, and checks of what a run leaves behind.

=============  =================================================================================
`clock`        virtual time on asyncio and trio: ten minutes of heartbeats in milliseconds
`faults`       what can befall a request; `ledgers`, `transport`: ledgers that hang, lose or refuse
               around one that works, also over HTTP; `recording` remembers
`plans`        faults for the n-th call: `deny_at(2)`, `lose_answer(1)`
`sweep`        a program given up at every turn of its loop, denied at every call
`governing`    a funded ledger in memory, governed runs on it (the pytest fixtures are made of it)
`models`       models that answer, block, fail, or stream slowly, and count what they were asked
`checks`       that a ledger holds no open reservation, and a loop no task; what was spent
`contract`     what every ledger keeps, as a pytest suite for one of your own; imported by itself
=============  =================================================================================
"""

from comptroller.testing.assertions import (
    assert_settled,
    asyncio_tasks_left,
    no_task_left,
    open_reservations,
    settled,
    spent,
    tasks_left,
    trio_tasks_left,
)
from comptroller.testing.cancellation_sweep import (
    Finding,
    Report,
    cancel_everywhere,
    deny_everywhere,
    lose_everywhere,
)
from comptroller.testing.faults import (
    Fault,
    Faults,
    delayed,
    duplicated,
    expired,
    lost_answer,
    lost_request,
    malformed,
    overtaken,
    rate_limited,
    refused,
    server_error,
)
from comptroller.testing.fixtures import FundedLedger, Governing
from comptroller.testing.ledgers import (
    FaultyLedger,
    PlannedLedger,
    ScriptedLedger,
    StalledLedger,
    deny_at,
    lose_answer,
)
from comptroller.testing.models import BlockedModel, CountingModel, FailingModel, StreamingModel
from comptroller.testing.recording import RecordingLedger, Request
from comptroller.testing.sweep_trial import Trial
from comptroller.testing.transport import FaultyTransport
from comptroller.testing.virtual_time.asyncio_loop import VirtualTimeLoop, virtual_backend

__all__ = [
    "BlockedModel",
    "CountingModel",
    "FailingModel",
    "Fault",
    "Faults",
    "FaultyLedger",
    "FaultyTransport",
    "Finding",
    "FundedLedger",
    "Governing",
    "PlannedLedger",
    "RecordingLedger",
    "Report",
    "Request",
    "ScriptedLedger",
    "StalledLedger",
    "StreamingModel",
    "Trial",
    "VirtualTimeLoop",
    "assert_settled",
    "asyncio_tasks_left",
    "cancel_everywhere",
    "delayed",
    "deny_at",
    "deny_everywhere",
    "duplicated",
    "expired",
    "lose_answer",
    "lose_everywhere",
    "lost_answer",
    "lost_request",
    "malformed",
    "no_task_left",
    "open_reservations",
    "overtaken",
    "rate_limited",
    "refused",
    "server_error",
    "settled",
    "spent",
    "tasks_left",
    "trio_tasks_left",
    "virtual_backend",
]
