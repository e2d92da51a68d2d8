"""The database: its tables, and that it may be away."""

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Result, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.database.database import Database, DatabaseUnavailable
from deployments.database.storage import Storage
from deployments.database.tables import METADATA
from deployments.fleet_settings import DatabaseSettings, HttpSettings
from tests.postgresql import Server


def database_of(settings: DatabaseSettings) -> Database:
    return Storage(settings, HttpSettings()).database


def executing(statement: str) -> Callable[[AsyncConnection], Awaitable[Result[Any]]]:
    return lambda connection: connection.execute(text(statement))


async def test_migrations_make_the_tables(settings: DatabaseSettings) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    database = database_of(settings)
    await database.start()
    assert await database.run(lambda connection: connection.run_sync(differences)) == []
    await database.stop()


async def test_replicas_that_start_at_once_make_them_once(settings: DatabaseSettings) -> None:
    replicas = [database_of(settings) for _ in range(4)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    async with asyncio.timeout(60):
        # SQLite lets the others wait for some seconds, which may be too few on a slow machine; then they try again.
        while any(replica.problem for replica in replicas):  # noqa: ASYNC110 - they set no event
            await asyncio.sleep(0.05)
    numbers = await replicas[0].run(executing("SELECT count(*) FROM alembic_version"))
    assert numbers.scalar() == 1
    await asyncio.gather(*(replica.stop() for replica in replicas))


async def test_tables_of_a_newer_version_are_left_alone(settings: DatabaseSettings) -> None:
    database = database_of(settings)
    await database.start()
    await database.run(executing("UPDATE alembic_version SET version_num = '9999'"))
    await database.stop()
    older = database_of(settings)
    await older.start()
    assert "newer" in older.problem
    with pytest.raises(DatabaseUnavailable):
        await older.run(executing("SELECT 1"))
    await older.stop()


async def test_a_server_that_was_away_is_found_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", server.url(await server.make_database()))
    database = database_of(DatabaseSettings(url_env="TEST_DATABASE_URL"))
    await database.start()
    assert not database.problem
    await asyncio.to_thread(server.stop)
    try:
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.run(executing("SELECT 1"))
        # A client learns nothing of where it is.
        assert str(server.port) not in caught.value.public
        assert database.problem
    finally:
        await asyncio.to_thread(server.start)
    async with asyncio.timeout(60):
        while database.problem:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.05)
    assert (await database.run(executing("SELECT 1"))).scalar() == 1
    await database.stop()


async def test_a_statement_that_is_wrong_is_no_absence(settings: DatabaseSettings) -> None:
    database = database_of(settings)
    await database.start()
    with pytest.raises(IntegrityError):
        await database.run(executing("INSERT INTO alembic_version VALUES ('1'), ('1')"))
    assert not database.problem
    await database.stop()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (DatabaseSettings(url_env="TEST_NO_SUCH_VARIABLE"), "TEST_NO_SUCH_VARIABLE"),
        (DatabaseSettings(file="/proc/no/such/folder/penstock.sqlite"), "unable to open database file"),
        (DatabaseSettings(url="postgresql://nobody@127.0.0.1:1/nothing"), "Connect"),
    ],
)
async def test_one_that_cannot_be_had_says_why(settings: DatabaseSettings, problem: str) -> None:
    database = database_of(settings)
    await database.start()
    assert problem in database.problem
    await database.stop()


async def test_a_password_is_not_written_to_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://penstock:quite-secret@127.0.0.1:1/nothing")
    database = database_of(DatabaseSettings(url_env="TEST_DATABASE_URL"))
    await database.start()
    assert "127.0.0.1" in caplog.text
    assert "quite-secret" not in caplog.text + database.problem
    await database.stop()


async def test_a_transaction_goes_on_without_whoever_waited_for_it(settings: DatabaseSettings) -> None:
    database = database_of(settings)
    await database.start()
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'changed'"))
        begun.set()
        await goes_on.wait()

    waiting = asyncio.create_task(database.run(work))
    await begun.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    goes_on.set()
    found = await database.run(executing("SELECT version_num FROM alembic_version"))
    assert found.scalar() == "changed"
    await database.stop()


async def test_other_users_of_the_machine_cannot_read_what_was_said(tmp_path: Path) -> None:
    database = database_of(DatabaseSettings(file=str(tmp_path / "penstock.sqlite")))
    await database.start()
    await database.run(executing("UPDATE alembic_version SET version_num = 'changed'"))
    modes = modes_in(tmp_path)
    assert modes["penstock.sqlite"] == 0o600 and set(modes.values()) == {0o600}, modes
    await database.stop()


def modes_in(folder: Path) -> dict[str, int]:
    """The modes of the files of a folder, by name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
