"""A pair of sockets for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.ghostcast.net.link import Link


@pytest.fixture
def link() -> Iterator[Link]:
    """A sender and a receiver on loopback, symbols as at MTU 1500."""
    opened = Link()
    yield opened
    opened.close()
