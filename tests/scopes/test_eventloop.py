"""What a program under trio is told that lacks what carries the SDK there."""

import sys

import pytest

from comptroller import ComptrollerError
from comptroller._eventloop import open_host

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True),
]


async def test_without_trio_asyncio_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trio_asyncio", None)
    monkeypatch.delitem(sys.modules, "comptroller._trio_loop", raising=False)
    with pytest.raises(ComptrollerError, match=r'pip install "comptroller\[trio\]"$'):
        async with open_host():
            pass
