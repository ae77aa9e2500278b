"""Every file that is kept belongs to its user alone, and what is no file stops nobody."""

import os
import socket
import stat

import pytest

from comptroller import _private_files
from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite import SqliteWebhooks, open_sqlite
from support.requests import amount

pytestmark = pytest.mark.anyio

SUFFIXES = ("", "-wal", "-shm", "-next")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(autouse=True)
def _usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def modes(path):
    return {
        one.name.removeprefix(path.name): stat.S_IMODE(one.stat().st_mode)
        for one in path.parent.iterdir()
    }


async def test_nobody_else_can_open_or_lock_a_file_of_a_ledger(path):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1))
        SqliteWebhooks(path).close()
        assert modes(path) == dict.fromkeys(SUFFIXES, 0o600)


async def test_files_of_an_earlier_version_are_narrowed(path):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1))
    for suffix in SUFFIXES[::3]:
        path.with_name(path.name + suffix).chmod(0o666)
    async with open_sqlite(path) as ledger:
        assert [one.scope for one in await ledger.budgets()] == ["tenant:acme"]
        assert modes(path) == dict.fromkeys(SUFFIXES, 0o600)


@as_root
@pytest.mark.parametrize("suffix", ["", "-next", "-wal", "-shm"])
async def test_a_file_of_another_user_is_refused_with_his_name(path, suffix):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1))
    other = path.with_name(path.name + suffix)
    other.touch()
    os.chown(other, 65534, 65534)
    with pytest.raises(ComptrollerError, match=r"belongs to nobody.* runs as root: run it as"):
        async with open_sqlite(path):
            pass


def put(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            here = os.open(path.parent, os.O_RDONLY)
            made.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "socket"])
@pytest.mark.parametrize("suffix", ["-next", "-wal", "-shm"])
async def test_what_is_no_file_is_named_and_keeps_nobody_waiting(path, suffix, kind):
    put(kind, path.with_name(path.name + suffix))
    with pytest.raises(ComptrollerError, match=f"ledger.db{suffix} is a {kind} and no regular"):
        async with open_sqlite(path):
            pass


def test_what_is_read_has_a_bound(path):
    path.write_bytes(b"12345")
    assert _private_files.read(path, 5) == b"12345"
    with pytest.raises(_private_files.Unusable, match="more than 4 bytes"):
        _private_files.read(path, 4)
