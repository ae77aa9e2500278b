"""A real model stopped in the middle of an answer, in the ways in which a run is left early.

Each time: the call stands in the receipt as abandoned and with the reason, it is charged, at most
what was reserved, nothing of the budget stays locked, and the server stops writing.
"""

import anyio
import pytest

from comptroller import RunCancelled, governed_run, open_supervisor, tokens
from e2e.constants import LONG, POLICY, spent

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

STORY = "Tell me everything about lakes."
REASON = "user closed the tab"
PIECES = 20
"""How much of an answer is read: a piece is about a token."""


@pytest.fixture
async def abandoned(count, ledger):
    """Checks what a run left behind; answers its receipt's one line and the server's count."""
    await ledger.set_budget("tenant:acme", tokens(10_000))

    async def check(receipt):
        [line] = receipt.calls
        assert line.outcome == "abandoned"
        assert 0 < line.charged.amount <= line.reserved.amount
        assert await spent(ledger) == line.charged.amount
        counted = await count()
        assert 0 < counted.generated < LONG
        return line, counted

    return check


def is_text(event):
    """Whether a stream's event is a piece of the answer."""
    return event.type == "raw_response_event" and event.data.type == "response.output_text.delta"


async def read(stream, most):
    """Read a stream until `most` pieces of the answer have come."""
    pieces = 0
    async for event in stream:
        pieces += is_text(event)
        if pieces == most:
            break


async def test_cancelled_by_another_task(speaker, server, ledger, abandoned):
    """Plain: how much was written is unknown, so the estimate is charged."""
    with anyio.fail_after(60):
        async with governed_run(speaker(LONG), "acme", ledger=ledger, policy=POLICY) as run:

            async def close_the_tab():
                await server.generating(10)
                run.cancel(REASON)

            async with anyio.create_task_group() as group:
                group.start_soon(close_the_tab)
                with pytest.raises(RunCancelled, match=REASON):
                    await run(STORY)
        line, _ = await abandoned(run.receipt)
    assert REASON in line.reason
    assert (line.actual_source, line.charged) == ("estimate", line.reserved)


async def test_a_stream_cancelled_by_its_reader(speaker, ledger, abandoned):
    """Streamed: about what came until then is charged; the stream does not look complete."""
    with anyio.fail_after(60):
        async with governed_run(speaker(LONG), "acme", ledger=ledger, policy=POLICY) as run:
            stream = run.stream(STORY)
            await read(stream, PIECES)
            run.cancel(REASON)
            with pytest.raises(RunCancelled, match=REASON):
                await read(stream, LONG)
        line, counted = await abandoned(run.receipt)
    assert REASON in line.reason
    assert line.actual_source == "streamed"
    assert PIECES <= line.charged.amount <= 2 * counted.total


async def test_a_stream_left_by_its_reader(speaker, ledger, abandoned):
    """Nobody cancels: the block ends while the model is still writing."""
    with anyio.fail_after(60):
        async with governed_run(speaker(LONG), "acme", ledger=ledger, policy=POLICY) as run:
            await read(run.stream(STORY), PIECES)
        line, counted = await abandoned(run.receipt)
    assert line.actual_source == "streamed"
    assert PIECES <= line.charged.amount <= 2 * counted.total


async def test_cancelled_from_outside(speaker, server, ledger, abandoned):
    """A scope around everything is cancelled: nothing is translated, everything is settled."""
    runs = []

    async def browse():
        async with governed_run(speaker(LONG), "acme", ledger=ledger, policy=POLICY) as run:
            runs.append(run)
            await run(STORY)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(browse)
            await server.generating(10)
            group.cancel_scope.cancel()
        await abandoned(runs[0].receipt)


async def test_an_exception_in_the_block(speaker, ledger, abandoned):
    """It leaves the block as it is, after the model's call was settled."""
    runs = []

    async def fail_while_reading():
        async with governed_run(speaker(LONG), "acme", ledger=ledger, policy=POLICY) as run:
            runs.append(run)
            await read(run.stream(STORY), PIECES)
            raise ZeroDivisionError

    with anyio.fail_after(60):
        with pytest.raises(ZeroDivisionError):
            await fail_while_reading()
        await abandoned(runs[0].receipt)


async def test_a_supervisor_left_by_an_exception(speaker, server, ledger, abandoned):
    """It cancels what it has started, and settles it."""
    started = []

    async def fail_while_generating():
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:
            started.append(supervisor.start(speaker(LONG), STORY, tenant="acme"))
            await server.generating(10)
            raise ZeroDivisionError

    with anyio.fail_after(60):
        with pytest.raises(ZeroDivisionError):
            await fail_while_generating()
        await abandoned(started[0].receipt)
    assert started[0].status == "cancelled"


async def test_one_of_two_supervised_runs_cancelled(speaker, server, ledger, abandoned):
    """The other one, of another tenant, completes and pays for itself alone."""
    await ledger.set_budget("tenant:globex", tokens(10_000))
    with anyio.fail_after(60):
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:
            long = supervisor.start(speaker(LONG), STORY, tenant="acme")
            await server.generating(10)
            short = supervisor.start(speaker(24), STORY, tenant="globex")
            result = await short
            long.cancel(REASON)
            outcome = await long.outcome()
        line, _ = await abandoned(long.receipt)
    assert type(outcome).__name__ == "Cancelled"
    assert REASON in line.reason
    assert await spent(ledger, "globex") == result.context_wrapper.usage.total_tokens
