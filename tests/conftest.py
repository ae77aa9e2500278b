"""What every test here stands on.

Both backends. A coroutine test marked `@pytest.mark.anyio` runs twice, on asyncio and on trio,
through anyio's plugin (`anyio_backend`). Plugin modes are strict: nothing runs without a marker.
A test of trio alone is marked `@pytest.mark.trio` (pytest-trio; virtual time: `autojump_clock`).
A test of asyncio alone: `@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)`.

Time. The clocks are real, unless the test, its class or its module is marked `virtual_time`::

    pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Then the clock of either backend jumps to the next timer when nothing is ready, and keeps pace
with real time while a worker thread or a socket is awaited (`comptroller.testing.virtual_time`).

The world. No test reaches beyond loopback, sees settings of the person who runs it, or writes
outside pytest's temporary directories; the SDK's tracing, which would send, is off. The tests of
`tests/e2e` drive a real language model: they are collected only where they are asked for.
"""

import os
import sys
from pathlib import Path

import agents
import hypothesis
import pytest

from comptroller.testing import virtual_backend

END_TO_END = Path(__file__).parent / "e2e"

hypothesis.settings.register_profile("comptroller", deadline=None)
hypothesis.settings.load_profile("comptroller")
agents.set_tracing_disabled(True)


def pytest_ignore_collect(collection_path, config):
    """`tests/e2e` needs `-m e2e` or to be named."""
    asked_for = "e2e" in config.option.markexpr or any("e2e" in name for name in config.args)
    return True if collection_path == END_TO_END and not asked_for else None


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """asyncio, then trio; on virtual time where the marker asks for it."""
    virtual = request.node.get_closest_marker("virtual_time")
    return virtual_backend(request.param) if virtual else request.param


@pytest.fixture(scope="session", autouse=True)
def _settings_of_nobody(tmp_path_factory):
    """Ledgers and keys named by the environment are not the tests' business."""
    ours = ("CYCLES_", "COMPTROLLER_", "OPENAI_")
    for name in [name for name in os.environ if name.startswith(ours)]:
        del os.environ[name]
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _data_of_this_test(monkeypatch, tmp_path_factory, request):
    """What one test leaves in its outbox is not sent by the next."""
    name = f"data-{abs(hash(request.node.nodeid))}"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / name))


def _refuse_the_network(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "::1") and not str(host).startswith("127."):
        raise PermissionError(f"a test tried to reach {host!r}: only loopback is allowed")


sys.addaudithook(_refuse_the_network)
