"""Test doubles for code that runs under Comptroller, and checks of what a run leaves behind.

=============  =================================================================================
`clock`        virtual time on asyncio and trio
`ledgers`      ledgers that hang (`StalledLedger`) and that lose or refuse (`ScriptedLedger`)
`models`       models that block, fail, or stream slowly, and count what they were asked
`checks`       that a ledger holds no open reservation, and a loop no task
=============  =================================================================================
"""

from .clock import VirtualTimeLoop, virtual_backend

__all__ = ["VirtualTimeLoop", "virtual_backend"]
