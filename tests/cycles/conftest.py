"""Hooks are asyncio's, as the package is whose interface they have."""

import pytest

from comptroller.testing import virtual_backend


@pytest.fixture
def anyio_backend():
    return virtual_backend("asyncio")
