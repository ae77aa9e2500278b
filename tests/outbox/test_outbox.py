"""The outbox: what is on disk when, what is sent when, and what an answer does to it."""

import errno
import itertools
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import attrs
import httpx
import pytest
from runcycles import Action, CommitRequest, EventCreateRequest, Subject

from comptroller.errors import ComptrollerError, CredentialsMissing, refusal
from comptroller.ledger.interface import PendingCharge
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.ledger.remote.outbox import DiskOutbox, Entry, OutboxDirectory, browse
from comptroller.ledger.remote.outbox.entries import now_ms
from comptroller.ledger.remote.outbox.outbox import LANES
from comptroller.ledger.remote.outbox.writer import FileWriter
from comptroller.money import tokens

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ADDRESS = "http://cycles"


def owed(key="rsv_1", *, reserved=True, tenant="acme", retry_after_ms=None):
    event = EventCreateRequest(
        idempotency_key=f"run/1/{key}/commit",
        subject=Subject(tenant=tenant),
        action=Action(kind="k", name="n"),
        actual=tokens(30),
    )
    commit = CommitRequest(idempotency_key=event.idempotency_key, actual=tokens(30))
    return PendingCharge(
        key=key,
        reservation_id=key if reserved else None,
        commit=commit if reserved else None,
        event=event,
        retry_after_ms=retry_after_ms,
    )


def no(status, code=None, retry_after_ms=None):
    return refusal(
        f"{status} {code}",
        status=status,
        error_code=code,
        asks_for_budget=False,
        retry_after_ms=retry_after_ms,
    )


class Books:
    """A ledger that answers in order: an exception is raised; whatever comes later is accepted."""

    def __init__(self, *answers):
        self.answers, self.sent, self.hangs = list(answers), [], False
        self.now = self.most = 0
        self.released = False

    async def commit(self, reservation_id, request, *, tenant=None):
        await self._take(("commit", reservation_id, tenant))

    async def record(self, request, *, tenant=None):
        await self._take(("record", request.idempotency_key, tenant))

    async def reservation(self, reservation_id, *, tenant=None):
        await self._take(("reservation", reservation_id, tenant))
        return SimpleNamespace(is_released=lambda: self.released)

    rest = 0.0

    def try_now(self):
        """It is always asked."""

    async def _take(self, what):
        self.sent.append((anyio.current_time(), *what))
        self.now += 1
        self.most = max(self.now, self.most)
        try:
            await anyio.sleep(600 if self.hangs else 0)
        finally:
            self.now -= 1
        if self.answers and (error := self.answers.pop(0)) is not None:
            raise error

    @property
    def what(self):
        return [each[1] for each in self.sent]

    @property
    def pauses(self):
        times = [each[0] for each in self.sent]
        return [after - before for before, after in itertools.pairwise(times)]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "outbox"


def opened(books, root, patience=0.0):
    return DiskOutbox(books, OutboxDirectory(root, ADDRESS), patience=patience)


def names(root):
    return sorted(path.suffix for path in root.rglob("*") if path.is_file())


def on_disk(root):
    return [entry for _, entry in browse(root)]


async def until(done):
    while not done():  # noqa: ASYNC110 - on virtual time
        await anyio.sleep(0.1)


async def test_it_is_on_disk_before_it_is_sent_and_gone_when_it_is_settled(root):
    async with opened(Books(), root) as outbox:
        await outbox.write_ahead(owed())
        (entry,) = on_disk(root)
        assert (entry.key, entry.commit, entry.event) == ("rsv_1", owed().commit, owed().event)
        outbox.settled("rsv_1")
    assert names(root) == []


async def test_what_its_owner_sends_is_not_sent_by_the_outbox(root):
    books = Books()
    async with opened(books, root) as outbox:
        await outbox.write_ahead(owed())
        await anyio.sleep(600)
        assert books.sent == []
        outbox.keep(owed())
        assert await outbox.drain(1) == 0
        assert books.what == ["commit"]


async def test_what_is_kept_without_having_been_written_is_on_disk_when_that_returns(root):
    async with opened(Books(no(-1)), root) as outbox:
        outbox.keep(owed())
        assert [entry.key for entry in on_disk(root)] == ["rsv_1"]


async def test_pauses_grow_with_some_chance_and_have_an_end(root):
    books = Books(*[no(503)] * 12)
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        await until(lambda: not outbox.left)
    # the first failure was its owner's
    expected = [min(60, 0.5 * 2**n) for n in range(1, 13)]
    assert len(books.pauses) == len(expected)
    for pause, most in zip(books.pauses, expected, strict=True):
        assert most / 2 <= pause <= most + 0.01


@pytest.mark.parametrize("first", [True, False])
async def test_a_429_is_honoured_and_written_down(root, first):
    """Whether the call's owner was told, or the outbox."""
    books = Books() if first else Books(no(429, "LIMIT_EXCEEDED", 9_000))
    async with opened(books, root) as outbox:
        outbox.keep(owed(retry_after_ms=9_000 if first else None))
        began = anyio.current_time()
        await anyio.sleep(1)
        (entry,) = on_disk(root)
        assert entry.not_before_ms > entry.recorded_at_ms
        await until(lambda: not outbox.left)
        assert books.sent[-1][0] - began >= 8.9


@pytest.mark.parametrize("first", [True, False])
async def test_a_monstrous_wait_is_cut_and_written_down_so(root, first):
    """Whoever opens the outbox next does not wait for it anew, either."""
    books = Books() if first else Books(no(429, "LIMIT_EXCEEDED", 10**18))
    async with opened(books, root) as outbox:
        outbox.keep(owed(retry_after_ms=10**18 if first else None))
        began = anyio.current_time()
        await anyio.sleep(1)
        (entry,) = on_disk(root)
        assert entry.not_before_ms - entry.recorded_at_ms <= 3_700_000
        await until(lambda: not outbox.left)
        assert 3_500 < anyio.current_time() - began < 3_700


async def test_a_clock_that_is_set_back_parks_no_charge_however_often_all_is_hastened(root):
    """A ledger that comes back, a drain: each looks at what is due."""
    shelf = OutboxDirectory(root, ADDRESS)
    shelf.put(attrs.evolve(Entry.of(owed(), ADDRESS), not_before_ms=now_ms() + 10**12))
    books = Books()
    async with opened(books, root) as outbox:
        for _ in range(7):
            await outbox.drain(0)
            await anyio.sleep(600)
        assert books.what == ["commit"]


async def test_a_lease_that_is_over_becomes_an_event_that_is_written_down_first(root):
    books = Books(no(410, "RESERVATION_EXPIRED"), no(-1))
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        await until(lambda: len(books.sent) > 1)
        assert [entry.commit for entry in on_disk(root)] == [None]
        assert await outbox.drain(60) == 0
    assert books.what == ["commit", "record", "record"]
    assert names(root) == []


async def test_what_will_never_be_accepted_is_set_aside_and_told(root, caplog):
    books = Books(no(409, "IDEMPOTENCY_MISMATCH"))
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        assert await outbox.drain(60) == 0
    assert "will never accept what rsv_1 cost" in caplog.text
    assert names(root) == [".rejected"]


@pytest.mark.parametrize(
    "refused",
    [no(401, "UNAUTHORIZED"), no(403, "FORBIDDEN"), no(418, "TEAPOT"), CredentialsMissing("none")],
)
async def test_what_can_be_mended_is_kept_and_told_and_tried_slowly(root, caplog, refused):
    books = Books(refused, refused)
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        await until(lambda: not outbox.left)
    assert "kept in the outbox" in caplog.text
    assert books.what == ["commit"] * 3
    assert min(books.pauses) == pytest.approx(60)


async def test_what_was_settled_by_an_earlier_attempt_is_over(root):
    async with opened(Books(no(409, "RESERVATION_FINALIZED")), root) as outbox:
        outbox.keep(owed())
        assert await outbox.drain(60) == 0
    assert names(root) == []


async def test_what_an_operator_released_meanwhile_is_recorded(root):
    """It ran, so it is charged; a ledger that does not say who settled it is asked again."""
    final = no(409, "RESERVATION_FINALIZED")
    books = Books(final, no(503, "UNAVAILABLE"), final)
    books.released = True
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        assert await outbox.drain(60) == 0
    assert books.what == ["commit", "reservation", "commit", "reservation", "record"]
    assert names(root) == []


async def test_a_defect_of_the_ledger_is_told_and_loses_nothing(root, caplog):
    async with opened(Books(ZeroDivisionError("its own")), root) as outbox:
        outbox.keep(owed())
        assert await outbox.drain(200) == 0
    assert "its own" in caplog.text


async def test_draining_is_bounded_and_leaves_the_rest_as_it_is(root):
    books = Books()
    books.hangs = True
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        began = anyio.current_time()
        assert await outbox.drain(7) == 1
        assert anyio.current_time() - began == pytest.approx(7, abs=0.5)
        assert [entry.key for entry in outbox.left] == ["rsv_1"]
    assert [entry.key for entry in on_disk(root)] == ["rsv_1"]


async def test_draining_does_not_wait_for_what_may_not_be_sent_in_time(root):
    async with opened(Books(), root) as outbox:
        outbox.keep(owed(retry_after_ms=600_000))
        began = anyio.current_time()
        assert await outbox.drain(60) == 1
        assert anyio.current_time() - began < 1


async def test_what_lies_there_costs_nothing_while_its_ledger_is_not_asked(root):
    """However many charges wait for a ledger that gives no answer, a lane tries one now and then;
    and all of them are sent when it is back.
    """
    for number in range(300):
        OutboxDirectory(root, ADDRESS).put(Entry.of(owed(f"rsv_{number}"), ADDRESS))
    tried, down = [], True

    def answer(request):
        tried.append(anyio.current_time())
        if down:
            raise httpx.ConnectError("refused")
        unit = {"unit": "TOKENS", "amount": 30}
        return httpx.Response(200, json={"status": "COMMITTED", "charged": unit})

    settings = {"api_key": "k", "transport": httpx.MockTransport(answer), "outbox": root}
    async with open_cycles(ADDRESS, **settings, drain_timeout=0.0) as ledger:
        taken = counted(ledger.outbox._parcels)
        await ledger.outbox.found()
        assert await ledger.drain(3600) == 300
        assert len(tried) > 100  # it is asked all the time
        assert len(taken) < LANES * (len(tried) + 2)
        down = False
        assert await ledger.drain(60) == 0


def counted(parcels):
    """What is taken in hand from now on."""
    taken, take = [], parcels.next

    async def next_one():
        taken.append(parcel := await take())
        return parcel

    parcels.next = next_one
    return taken


async def test_a_drain_does_not_wait_for_a_ledger_that_is_not_asked_in_time(root):
    books = Books()
    async with opened(books, root) as outbox:
        outbox.keep(owed())
        books.rest = 30.0
        began = anyio.current_time()
        assert await outbox.drain(10) == 1
        assert anyio.current_time() - began < 1
        books.rest = 0.0


async def test_a_home_is_found_wherever_the_program_was_started(tmp_path, monkeypatch):
    """Where no shell has read the setting: a container's, a service's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COMPTROLLER_OUTBOX", "~/outbox")
    for named in (True, "~/outbox"):
        async with open_cycles("http://127.0.0.1:1", outbox=named, drain_timeout=0) as ledger:
            ledger.outbox.keep(owed())
            assert names(tmp_path / "outbox") == [".json"]
    monkeypatch.setenv("COMPTROLLER_OUTBOX", "~nobody-of-this-name/outbox")
    with pytest.raises(ValueError, match="'~nobody-of-this-name/outbox' is no directory for"):
        async with open_cycles("http://127.0.0.1:1"):
            pass


async def test_draining_again_and_again_fills_no_memory(root):
    async with opened(Books(), root) as outbox:
        outbox.keep(owed(retry_after_ms=600_000))
        for _ in range(100):
            assert await outbox.drain(1) == 1
        assert len(outbox._parcels._turns) == 1


async def test_closing_sends_what_can_be_sent_and_waits_no_longer_than_it_may(root):
    good, bad = Books(no(-1)), Books()
    async with opened(good, root, patience=5) as outbox:
        outbox.keep(owed())
    assert (good.what, names(root)) == (["commit"] * 2, [])
    bad.hangs = True
    async with opened(bad, root, patience=5) as outbox:
        outbox.keep(owed())
        began = anyio.current_time()
    assert anyio.current_time() - began == pytest.approx(5, abs=0.5)
    assert [entry.key for entry in on_disk(root)] == ["rsv_1"]


async def test_how_its_body_is_left_is_nobody_elses_business(root):
    with pytest.raises(ZeroDivisionError):
        async with opened(Books(), root):
            raise ZeroDivisionError
    books = Books()
    with anyio.move_on_after(1) as scope:
        async with opened(books, root, patience=5) as outbox:
            outbox.keep(owed())
            books.answers.append(no(-1))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (books.what, names(root)) == (["commit"] * 2, [])


async def test_what_another_process_left_is_found_and_other_ledgers_are_left_alone(root):
    async with opened(Books(*[no(-1)] * 9), root) as outbox:
        outbox.keep(owed("rsv_1"))
        outbox.keep(owed("run/1/llm-1", reserved=False, tenant="globex"))
    OutboxDirectory(root, "http://another").put(Entry.of(owed("rsv_3"), "http://another"))
    books = Books()
    async with opened(books, root) as outbox:
        assert await outbox.drain(60) == 0
    assert sorted(each[1:] for each in books.sent) == [
        ("commit", "rsv_1", "acme"),
        ("record", "run/1/run/1/llm-1/commit", "globex"),
    ]
    assert [entry.address for entry in on_disk(root)] == ["http://another"]


async def test_what_is_accepted_while_somebody_looks_is_not_taken_for_left_behind(root):
    """A recovery looks while runs go on: their charges would be sent once more."""
    books = Books()
    async with opened(books, root) as outbox:
        await outbox.drain(0)
        keys = [f"rsv_{number}" for number in range(100)]
        for key in keys:
            await outbox.write_ahead(owed(key))
        async with anyio.create_task_group() as group:
            outbox.settled(keys[0])
            group.start_soon(outbox.look)
            for key in keys[1:]:
                await anyio.lowlevel.checkpoint()
                outbox.settled(key)
        assert outbox.left == []
    assert books.what == []


async def test_what_was_never_whole_is_removed_when_nobody_can_be_writing_it(root):
    """A process died while it wrote; another one may be writing just now."""
    shelf = OutboxDirectory(root, ADDRESS)
    shelf.put(Entry.of(owed(), ADDRESS))
    (whole,) = (path for path in root.rglob("*") if path.is_file())
    for name, seconds in (("torn", 7_200), ("new", 0)):
        part = whole.with_name(f"v2-{name}.json.1.abcd.tmp")
        part.touch()
        os.utime(part, (time.time() - seconds,) * 2)
    assert shelf.names() == ([whole], 0)
    assert {path.name for path in whole.parent.iterdir()} == {whole.name, "v2-new.json.1.abcd.tmp"}


async def found_beside(root, text):
    """A file of this text lies beside a good one: the books, and what each file is then."""
    OutboxDirectory(root, ADDRESS).put(Entry.of(owed("good"), ADDRESS))
    (path,) = root.rglob("*.json")
    path.with_name("beside.json").write_text(text(json.loads(path.read_text())))
    assert len(on_disk(root)) == 2
    books = Books()
    async with opened(books, root, patience=60):
        pass
    return books, names(root)


@pytest.mark.parametrize(
    "text",
    [
        lambda good: "[" * 200_000,
        lambda good: json.dumps({**good, "reservation_id": "\ud800"}),
    ],
    ids=["deeper than Python reads", "an id that no file can be named after"],
)
async def test_whatever_a_file_holds_the_others_are_sent(root, text):
    books, left = await found_beside(root, text)
    assert ([each[2] for each in books.sent], left) == (["good"], [".corrupt"])


async def test_a_time_beyond_all_dates_parks_one_charge_and_stops_no_other(root):
    def text(good):
        later = {**good, "reservation_id": "late", "not_before_ms": 10**400}
        return json.dumps(later)

    books, left = await found_beside(root, text)
    assert ([each[2] for each in books.sent], left) == (["good"], [".json"])


async def test_what_another_program_owes_elsewhere_need_not_be_understood(root):
    def text(good):
        return json.dumps({**good, "base_url": "http://another", "commit_body": {"newer": 1}})

    books, left = await found_beside(root, text)
    assert ([each[2] for each in books.sent], left) == (["good"], [".json"])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
async def test_what_cannot_be_read_now_is_no_corrupt_charge(root, caplog, monkeypatch, number):
    OutboxDirectory(root, ADDRESS).put(Entry.of(owed(), ADDRESS))

    def refuse(*_args, **_settings):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("comptroller._private_files.read", refuse)
        async with opened(Books(), root):
            pass
    assert "cannot be read now" in caplog.text
    books = Books()
    async with opened(books, root, patience=60):
        pass
    assert (books.what, names(root)) == (["commit"], [])


async def test_a_directory_that_is_somebody_elses_hides_no_other(root, caplog, monkeypatch):
    """Such as `lost+found`, where the outbox is a disk of its own."""
    OutboxDirectory(root, ADDRESS).put(Entry.of(owed(), ADDRESS))
    (root / "lost+found").mkdir()
    listed = Path.iterdir

    def refused_there(path):
        if path.name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refused_there)
    books = Books()
    async with opened(books, root, patience=60):
        pass
    assert (books.what, names(root)) == (["commit"], [])
    assert "lost+found: [Errno 13]" in caplog.text


async def test_an_outbox_that_cannot_be_looked_into_is_not_called_empty(root, caplog):
    root.touch()
    async with opened(Books(), root):
        pass
    assert "Not a directory" in caplog.text
    with pytest.raises(NotADirectoryError):
        on_disk(root)


async def test_many_are_sent_a_few_at_once(root):
    shelf = OutboxDirectory(root, ADDRESS)
    for number in range(200):
        shelf.put(Entry.of(owed(f"rsv_{number}"), ADDRESS))
    books = Books()
    async with opened(books, root) as outbox:
        assert await outbox.drain(60) == 0
    assert (len(books.sent), books.most) == (200, LANES)
    assert names(root) == []


async def test_a_disk_that_takes_nothing_is_told_and_the_charge_is_sent_all_the_same(
    tmp_path, caplog
):
    (tmp_path / "file").touch()
    books = Books(no(-1))
    async with opened(books, tmp_path / "file" / "outbox") as outbox:
        await outbox.write_ahead(owed())
        assert "rsv_1 cost is not on disk" in caplog.text
        outbox.keep(owed())
        assert await outbox.drain(60) == 0
    assert books.what == ["commit"] * 2


async def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(tmp_path):
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "outbox"
    books = Books(*[no(503)] * 3)
    async with opened(books, root) as outbox:
        await outbox.write_ahead(owed())
        outbox.keep(owed())
        (tmp_path / "file").unlink()
        await until(lambda: books.sent)
        await anyio.sleep(0.1)
        assert [entry.key for entry in on_disk(root)] == ["rsv_1"]
        assert await outbox.drain(600) == 0
    assert names(root) == []


async def test_setting_aside_needs_no_room(root, monkeypatch):
    async with opened(Books(no(400, "INVALID_REQUEST")), root) as outbox:
        await outbox.write_ahead(owed())
        monkeypatch.setattr(OutboxDirectory, "put", full)
        outbox.keep(owed())
        assert await outbox.drain(60) == 0
    assert names(root) == [".rejected"]


def full(shelf, entry):
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_file_work_that_is_left_at_the_end_is_done_off_the_loop_and_in_order():
    """Thousands of removals would hold up the loop that everything else ends in."""
    done, clerk = [], FileWriter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clerk.serve)
        await anyio.wait_all_tasks_blocked()
        for number in range(1_000):
            clerk.later(lambda number=number: done.append((number, threading.get_ident())))
        tasks.cancel_scope.cancel()
    assert [number for number, _ in done] == list(range(1_000))
    assert threading.get_ident() not in {thread for _, thread in done}


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
async def test_what_is_no_file_is_set_aside_and_the_others_are_sent(root, kind):
    """A pipe would keep its reader for ever."""
    OutboxDirectory(root, ADDRESS).put(Entry.of(owed(), ADDRESS))
    (whole,) = root.rglob("*.json")
    special = whole.with_name("beside.json")
    if kind == "pipe":
        os.mkfifo(special)
    elif kind == "folder":
        special.mkdir()
    else:
        special.symlink_to("/dev/zero")
    assert [entry for _, entry in browse(root) if entry is None] == [None]
    books = Books()
    async with opened(books, root) as outbox:
        assert await outbox.drain(60) == 0
    assert books.what == ["commit"]
    assert [path.name for path in whole.parent.iterdir()] == ["beside.corrupt"]


@pytest.mark.parametrize("where", ["the charge's", "the tenant's"])
async def test_what_stands_where_a_charge_is_written_gives_way(root, where):
    shelf = OutboxDirectory(root, ADDRESS)
    shelf.put(Entry.of(owed(), ADDRESS))
    (path,) = root.rglob("*.json")
    path.unlink()
    if where == "the charge's":
        path.mkdir()
    else:
        path.parent.rmdir()
        os.mkfifo(path.parent)
    shelf.put(Entry.of(owed(), ADDRESS))
    assert [entry.key for entry in on_disk(root)] == ["rsv_1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_what_another_user_has_put_there_is_not_sent(root, caplog):
    shelf = OutboxDirectory(root, ADDRESS)
    for key in ("rsv_1", "forged"):
        shelf.put(Entry.of(owed(key), ADDRESS))
    (forged,) = root.rglob(Entry.of(owed("forged"), ADDRESS).file_name)
    os.chown(forged, 65534, 65534)
    books = Books()
    async with opened(books, root) as outbox:
        await outbox.drain(60)
    assert [each[2] for each in books.sent] == ["rsv_1"]
    assert "belongs to nobody" in caplog.text


async def test_what_was_not_looked_at_yet_is_not_called_sent(root, monkeypatch):
    """The search of a directory may take longer than anybody waits."""
    shelf = OutboxDirectory(root, ADDRESS)
    for number in range(3):
        shelf.put(Entry.of(owed(f"rsv_{number}"), ADDRESS))
    monkeypatch.setattr("comptroller.ledger.remote.outbox.outbox._AT_ONCE", 1)
    slowly, go_on = OutboxDirectory.entry, threading.Event()
    monkeypatch.setattr(
        OutboxDirectory, "entry", lambda *given: (go_on.wait(60), slowly(*given))[1]
    )
    monkeypatch.setattr("comptroller.ledger.remote.outbox.outbox._LOOKING", 0.0)
    books = Books()
    async with opened(books, root, patience=60) as outbox:
        with anyio.fail_after(60):
            while outbox._unread is None:  # noqa: ASYNC110 - a thread lists
                await anyio.sleep(0.01)
        assert await outbox.drain(0) == 3
        go_on.set()
        await outbox.found()
        assert await outbox.drain(60) == 0


async def test_what_cannot_be_read_is_left_and_what_hides_everything_is_told(root, monkeypatch):
    OutboxDirectory(root, ADDRESS).put(Entry.of(owed(), ADDRESS))

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("comptroller._private_files.read", refuse)
        async with opened(Books(), root) as outbox:
            assert await outbox.drain(1) == 1
            assert outbox.unread
    monkeypatch.setattr(OutboxDirectory, "names", refuse)
    async with opened(Books(), root) as outbox:
        with pytest.raises(ComptrollerError, match="what is owed is not known"):
            await outbox.drain(1)


async def test_what_a_full_disk_never_took_is_told_whole_when_it_is_lost(root, caplog, monkeypatch):
    async with opened(Books(*[no(503)] * 9), root) as outbox:
        monkeypatch.setattr(OutboxDirectory, "put", full)
        outbox.keep(owed())
    assert "what rsv_1 cost is lost: {" in caplog.text
    assert "stay in the outbox" not in caplog.text
