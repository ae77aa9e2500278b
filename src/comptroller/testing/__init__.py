"""Test doubles for code that runs under Comptroller, and checks of what a run leaves behind.

=============  =================================================================================
`clock`        virtual time on asyncio and trio: ten minutes of heartbeats in milliseconds
`faults`       what can befall a request; `ledgers`, `transport`: ledgers that hang, lose or refuse
               around one that works, also over HTTP; `recording` remembers
`models`       models that answer, block, fail, or stream slowly, and count what they were asked
`checks`       that a ledger holds no open reservation, and a loop no task; what was spent
=============  =================================================================================
"""

from .checks import (
    assert_settled,
    asyncio_tasks_left,
    no_task_left,
    open_reservations,
    settled,
    spent,
    tasks_left,
    trio_tasks_left,
)
from .clock import VirtualTimeLoop, virtual_backend
from .faults import (
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
from .ledgers import FaultyLedger, ScriptedLedger, StalledLedger
from .models import BlockedModel, CountingModel, FailingModel, StreamingModel
from .recording import RecordingLedger, Request
from .transport import FaultyTransport

__all__ = [
    "BlockedModel",
    "CountingModel",
    "FailingModel",
    "Fault",
    "Faults",
    "FaultyLedger",
    "FaultyTransport",
    "RecordingLedger",
    "Request",
    "ScriptedLedger",
    "StalledLedger",
    "StreamingModel",
    "VirtualTimeLoop",
    "assert_settled",
    "asyncio_tasks_left",
    "delayed",
    "duplicated",
    "expired",
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
