"""What conftest.py promises about the world: loopback only, nobody's settings."""

import os
import socket

import platformdirs
import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.com", 80)])
def test_nothing_beyond_loopback_is_reached(address):
    with pytest.raises(PermissionError, match="only loopback is allowed"):
        socket.create_connection(address, timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_reached(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=10).close()


def test_no_setting_of_the_person_who_runs_the_tests_is_seen(tmp_path_factory):
    assert [name for name in os.environ if name.startswith(("CYCLES_", "COMPTROLLER_"))] == []
    data = platformdirs.user_data_path("comptroller")
    assert data.is_relative_to(tmp_path_factory.getbasetemp())
