"""Channels to an instance in the test's own process."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.instance.engine_host import EngineHost
from tests.actors.channel_reader import Reader, host

Open = Callable[..., Any]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Boots a host with this script and opens a channel to it."""
    made: list[tuple[EngineHost, Reader]] = []

    async def open_to(script: list[Any], **options: Any) -> tuple[EngineHost, Reader]:
        instance = host(script, **options)
        await instance.boot()
        reader = Reader(instance)
        made.append((instance, reader))
        await reader.is_open()
        return instance, reader

    yield open_to
    for instance, reader in made:
        await instance.stop(1.0)
        reader.close()
