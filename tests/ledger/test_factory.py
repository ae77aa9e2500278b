"""Which ledger an address names, and which one is used when none is named."""

import logging
import stat
from pathlib import Path

import attrs
import platformdirs
import pytest

from comptroller.errors import ComptrollerError, CredentialsMissing
from comptroller.ledger import factory
from comptroller.ledger.embedded.memory import MemoryLedger
from comptroller.ledger.factory import DefaultLedger, default_ledger, default_settings, open_ledger
from comptroller.ledger.remote.ledger import CyclesLedger
from comptroller.ledger.remote.outbox import default_directory, directory
from comptroller.ledger.sqlite import SqliteLedger
from comptroller.money import usd

pytestmark = pytest.mark.anyio

SERVER = "http://cycles.example.com:7878"


@pytest.fixture
def data(monkeypatch, tmp_path):
    """The user's data directory, which is not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    factory._tell.cache_clear()
    return platformdirs.user_data_path("comptroller", appauthor=False)


class TestAddresses:
    async def test_memory(self):
        async with open_ledger("memory:") as ledger:
            assert isinstance(ledger, MemoryLedger)

    @pytest.mark.parametrize("url", ["http://host:7878", "https://host", "HTTP://host"])
    async def test_a_server(self, url):
        async with open_ledger(url, api_key="key", request_timeout=7, in_flight=3) as ledger:
            assert isinstance(ledger, CyclesLedger)
            assert (ledger.name, ledger.request_timeout) == (url.lower(), 7)

    async def test_a_file(self, tmp_path, monkeypatch):
        """A path, however it is written, is the same file."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        file = tmp_path / "ledger.db"
        async with open_ledger(file) as ledger:
            assert isinstance(ledger, SqliteLedger)
            await ledger.set_budget("tenant:acme", usd("1"))
        for url in (str(file), "ledger.db", "sqlite:ledger.db", f"sqlite:{file}", "~/ledger.db"):
            async with open_ledger(url) as ledger:
                assert [one.scope for one in await ledger.budgets()] == ["tenant:acme"]

    async def test_a_relative_path_is_the_same_file_wherever_the_process_goes(
        self, tmp_path, monkeypatch
    ):
        """It is the one of the moment in which it was given."""
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        opening = open_ledger("ledger.db")
        monkeypatch.chdir(tmp_path / "elsewhere")
        async with opening as ledger:
            assert ledger.name == "ledger.db"
            await ledger.set_budget("tenant:acme", usd("1"))
            monkeypatch.chdir(tmp_path)
            await ledger.fund("tenant:acme", usd("1"))
            assert (await ledger.verify()).differences == ()
        assert list((tmp_path / "elsewhere").iterdir()) == []

    async def test_so_is_that_of_an_outbox(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COMPTROLLER_OUTBOX", "outbox")
        assert default_directory() == tmp_path / "outbox"
        assert directory("mine") == tmp_path / "mine"

    async def test_a_path_object_is_always_a_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        async with open_ledger(Path("memory:")) as ledger:
            assert isinstance(ledger, SqliteLedger)

    async def test_how_a_file_is_written_can_be_chosen(self, tmp_path):
        with pytest.raises(ValueError, match="synchronous"):
            async with open_ledger(tmp_path / "ledger.db", synchronous="MAYBE"):
                pass

    @pytest.mark.parametrize("url", ["http//host", "http:/host", "ftp://host", "http://", "://"])
    async def test_a_malformed_address_shows_a_right_one(self, url, tmp_path, monkeypatch):
        """It was not meant as a file, and makes none."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="http://localhost:7878"):
            async with open_ledger(url, api_key="key"):
                pass
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("url", ["postgres://me:secret@host/db", "redis://:secret@host"])
    async def test_an_unknown_kind_names_those_that_there_are_and_no_password(self, url):
        with pytest.raises(ValueError, match=r'sqlite:PATH.*"memory:".*ledger=yours') as caught:
            open_ledger(url)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("url", ["", "sqlite:", "sqlite:///ledger.db"])
    async def test_no_path_shows_one(self, url):
        with pytest.raises(ValueError, match=r"ledger\.db"):
            open_ledger(url)

    @pytest.mark.parametrize("url", [None, 7, b"ledger.db"])
    async def test_what_is_neither_text_nor_a_path_is_shown(self, url):
        with pytest.raises(TypeError, match=f"{url!r} names no ledger"):
            open_ledger(url)

    async def test_the_home_of_nobody_is_no_place(self):
        with pytest.raises(ValueError, match=r"~nobody-at-all/ledger\.db"):
            open_ledger("~nobody-at-all/ledger.db")

    async def test_a_host_without_a_scheme_is_not_taken_for_a_file(self):
        with pytest.raises(ValueError, match="http://localhost:7878 for a server"):
            open_ledger("localhost:7878")

    @pytest.mark.parametrize("url", ["memory:", "ledger.db"])
    async def test_an_embedded_ledger_takes_no_key(self, url):
        with pytest.raises(ValueError, match="takes no api_key"):
            open_ledger(url, api_key="key")


class TestTheEnvironment:
    async def test_a_server_comes_first_with_all_that_is_said_of_it(self, monkeypatch):
        for name, value in {
            "CYCLES_BASE_URL": SERVER,
            "CYCLES_API_KEY": "key",
            "CYCLES_CONNECT_TIMEOUT": "1.5",
            "CYCLES_READ_TIMEOUT": "9",
            "CYCLES_WORKSPACE": "prod",
            "CYCLES_APP": "support",
            "CYCLES_WORKFLOW": "",
            "COMPTROLLER_LEDGER": "ledger.db",
        }.items():
            monkeypatch.setenv(name, value)
        assert default_settings() == DefaultLedger(
            SERVER,
            api_key="key",
            request_timeout=9,
            connect_timeout=1.5,
            workspace="prod",
            app="support",
            workflow=None,
        )
        async with default_ledger() as ledger:
            assert isinstance(ledger, CyclesLedger)
            assert (ledger.name, ledger.request_timeout) == (SERVER, 9)

    async def test_settings_are_a_value_that_shows_no_key(self):
        chosen = DefaultLedger(SERVER, api_key="secret")
        assert "secret" not in repr(chosen)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            chosen.url = "other"

    async def test_a_server_without_a_key_says_whose_is_missing(self, monkeypatch):
        monkeypatch.setenv("CYCLES_BASE_URL", SERVER)
        async with default_ledger() as ledger:
            with pytest.raises(CredentialsMissing, match=r"'acme'.*CYCLES_API_KEY") as caught:
                await ledger.balances(tenant="acme")
        assert SERVER in str(caught.value)

    async def test_a_setting_that_is_no_number_is_one_line(self, monkeypatch):
        monkeypatch.setenv("CYCLES_BASE_URL", SERVER)
        monkeypatch.setenv("CYCLES_API_KEY", "key")
        monkeypatch.setenv("CYCLES_READ_TIMEOUT", "soon")
        with pytest.raises(ValueError, match=r"CYCLES_.*'soon'"):
            default_settings()

    async def test_then_a_named_file(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CYCLES_BASE_URL", "")
        monkeypatch.setenv("COMPTROLLER_LEDGER", str(tmp_path / "mine.db"))
        async with default_ledger() as ledger:
            assert isinstance(ledger, SqliteLedger)
            assert ledger.name == str(tmp_path / "mine.db")

    async def test_then_the_users_own_file_for_the_user_alone(self, data):
        async with default_ledger() as ledger:
            assert isinstance(ledger, SqliteLedger)
            assert ledger.name == str(data / "ledger.db")
        assert (data / "ledger.db").is_file()
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert default_settings().workspace is None

    async def test_its_path_is_logged_once(self, data, caplog):
        with caplog.at_level(logging.INFO, "comptroller"):
            default_settings()
            default_settings()
        (line,) = [one for one in caplog.records if one.name == "comptroller.ledger"]
        assert line.levelno == logging.INFO
        assert str(data / "ledger.db") in line.getMessage()

    async def test_where_it_cannot_be_made_another_can_be_named(self, data):
        data.parent.write_text("a file where the directory should be")
        with pytest.raises(ComptrollerError, match="COMPTROLLER_LEDGER") as caught:
            default_settings()
        assert "\n" not in str(caught.value)
