"""API keys: what opens, what does not, and for how long it is believed."""

import stat

import pytest

from comptroller.errors import ComptrollerError
from comptroller.ledger.api_keys import MemoryKeys, StaticApiKeys, create_api_key, digest
from comptroller.ledger.factory import open_keys
from comptroller.ledger.sqlite import SqliteKeys, open_sqlite

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
async def keys(request, tmp_path):
    if request.param == "memory":
        yield MemoryKeys()
        return
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        with open_keys(ledger) as table:
            yield table


async def test_a_key_opens_its_tenant_until_it_is_revoked(keys):
    text, key = create_api_key("Acme", 1, "a note")
    keys.add(key)
    found = keys.opened(text.encode())
    assert found == key
    assert (found.tenant, found.note, found.revoked_ms) == ("acme", "a note", None)
    assert keys.revoke(key.key_id, 2).revoked_ms == 2
    assert keys.revoke(key.key_id, 3).revoked_ms == 2
    assert keys.opened(text.encode()) is None
    assert [one.key_id for one in keys.all()] == [key.key_id]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda text: text[:-1],
        lambda text: text + "x",
        lambda text: text.upper(),
        lambda text: text.removeprefix("ck_"),
        lambda text: text.rpartition("_")[0],
        lambda text: "",
        lambda text: "ck_",
        lambda text: "\xff\x00",
        lambda text: text.replace("_", "__", 1),
    ],
)
async def test_what_is_nearly_a_key_opens_nothing(keys, wrong):
    text, key = create_api_key("acme", 1)
    keys.add(key)
    assert keys.opened(wrong(text).encode("latin-1")) is None


async def test_two_keys_of_one_tenant_are_apart(keys):
    texts = []
    for at in (1, 2):
        text, key = create_api_key("acme", at)
        keys.add(key)
        texts.append(text)
    first, second = (keys.opened(text.encode()) for text in texts)
    assert first.key_id != second.key_id
    keys.revoke(first.key_id, 3)
    assert keys.opened(texts[0].encode()) is None
    assert keys.opened(texts[1].encode()) == second


async def test_an_unknown_id_is_told(keys):
    with pytest.raises(ComptrollerError, match="comptroller key list"):
        keys.revoke("nothing", 1)


async def test_what_another_process_did_is_seen_within_a_second(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        now = [0.0]
        here, there = SqliteKeys(ledger.path, now=lambda: now[0]), SqliteKeys(ledger.path)
        try:
            text, key = create_api_key("acme", 1)
            assert here.opened(text.encode()) is None  # that there is none is not believed for long
            there.add(key)
            assert here.opened(text.encode()) == key
            there.revoke(key.key_id, 2)
            now[0] = 0.9
            assert here.opened(text.encode()) == key
            now[0] = 1.1
            assert here.opened(text.encode()) is None
        finally:
            here.close()
            there.close()


async def test_a_file_that_cannot_be_used_says_why(tmp_path):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path):
        pass
    path.write_bytes(b"no database, " * 99)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with pytest.raises(ComptrollerError, match="damaged or no ledger"):
        SqliteKeys(path)


def test_given_keys_are_kept_as_digests():
    keys = StaticApiKeys({"any text": "acme"})
    assert keys.opened(b"any text").tenant == "acme"
    assert keys.opened(b"any") is None
    assert "any text" not in repr(vars(keys))


def test_a_key_says_nothing_of_its_digest():
    text, key = create_api_key("acme", 1)
    assert text not in repr(key)
    assert digest(text.encode()) == key.digest
    assert repr(key.digest) not in repr(key)
