"""Databases to write to: SQLite, and a real PostgreSQL server that all tests share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deployments.fleet_settings import DatabaseSettings
from tests.postgresql import Server, postgresql


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DatabaseSettings]:
    """A database of each kind, empty."""
    if request.param == "sqlite":
        yield DatabaseSettings(file=str(tmp_path / "penstock.sqlite"))
        return
    server: Server = request.getfixturevalue("server")
    monkeypatch.setenv("TEST_DATABASE_URL", server.url(await server.make_database()))
    yield DatabaseSettings(url_env="TEST_DATABASE_URL")
