"""The connection to the database: opened, brought to this version's tables, watched, and opened again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, event, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from deployments.followed_file import Follower
from engines.errors import Unavailable

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TIMEOUT_S = 10.0
"""What one transaction may take, waiting for a connection and for others included."""
MIGRATE_S = 60.0
"""What bringing its tables to this version may take."""
RETRY_S = 2.0
"""How often one that is not there is tried."""
_POOL = 4
"""Connections of one router replica."""
_LOCK = 7365636
"""PostgreSQL's advisory lock under which one replica at a time changes the tables; any number of ours."""
_OURS = (IntegrityError, DataError, ProgrammingError)
"""Errors that say that a statement is wrong, and not that the database cannot be reached."""


class DatabaseUnavailable(Unavailable):
    """The database does not answer, so what needs it cannot be done."""

    code = "database_unavailable"


class Database:
    """A database, whether or not it is there.

    Args:
        url: Where it is; its driver is an asynchronous one. None: nobody knows.
        problem: Why nobody knows.

    Attributes:
        problem: What keeps it from being used; empty: nothing.
    """

    def __init__(self, url: URL | None, problem: str = "") -> None:
        self.problem = problem or "It was not asked yet."
        self._url = url
        self._engine: AsyncEngine | None = None
        self._follower: Follower | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Opens it, and goes on trying where that fails: a router replica runs without it, too."""
        if self._url is None:
            logger.error("The database cannot be used: %s", self.problem)
            return
        try:
            self._engine = _engine(self._url)
        except ModuleNotFoundError as error:
            self._note(f"{error.name} is not installed: `pip install 'penstock[postgresql]'`.")
            return
        await self._look()
        self._follower = Follower(self._look, RETRY_S)

    async def stop(self) -> None:
        """Closes it."""
        if self._follower is not None:
            await self._follower.stop()
        if self._running:
            await asyncio.wait(self._running)
        if self._engine is not None:
            await self._engine.dispose()

    def check(self) -> None:
        """Returns if it is there, as far as is known.

        Raises:
            DatabaseUnavailable: It is not.
        """
        if self.problem or self._engine is None:
            raise self._unavailable()

    async def run(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """Runs statements that hold together, or not at all.

        It goes on to its end also when whoever waits for it is cancelled: a connection that is left in the middle of a
        transaction is lost, and others wait for what it holds until that was undone.

        Raises:
            DatabaseUnavailable: The database does not answer, or has not in time.
            Exception: What `work` raised.
        """
        task = asyncio.get_running_loop().create_task(self._transaction(work))
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Whoever waited for it may be gone.
            task.exception()

    async def _transaction(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        self.check()
        assert self._engine is not None
        try:
            async with asyncio.timeout(TIMEOUT_S), self._engine.begin() as connection:
                return await work(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            if isinstance(error, _OURS):
                raise
            self._note(_said(error))
            raise self._unavailable() from error

    def _unavailable(self) -> DatabaseUnavailable:
        message = "The database of this server does not answer. Try again later."
        return DatabaseUnavailable(message, retry_after_s=RETRY_S).hiding(self.problem)

    async def _look(self) -> None:
        """Tries it, where it was not there."""
        if not self.problem or self._engine is None:
            return
        try:
            async with asyncio.timeout(MIGRATE_S), self._engine.begin() as connection:
                if connection.dialect.name != "sqlite":
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                await connection.run_sync(_migrate)
        except CommandError as error:
            self._note(f"Its tables are not those of any version known here, but perhaps of a newer one: {error}")
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self._note(_said(error))
        else:
            self.problem = ""
            logger.info("The database %s is there.", self._engine.url)

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            # A URL hides its password when it is written.
            logger.error("The database %s cannot be used: %s", self._url, problem)
        self.problem = problem


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        # A connection that a server or a proxy has closed meanwhile is found out before it is used.
        return create_async_engine(
            url, pool_size=_POOL, max_overflow=0, pool_pre_ping=True, connect_args={"timeout": TIMEOUT_S}
        )
    # What was said is in it, and SQLite would let all users of the machine read it. Its other files are as this one is.
    with suppress(OSError):
        Path(url.database or "").touch(mode=0o600)
    # One writes at a time, in all processes: within this one they had better wait in turn.
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    # Python's module would begin transactions by itself, too late for tables to be changed in one.
    connection.isolation_level = None
    cursor = connection.cursor()
    # With a log ahead of it a commit takes no sync of the disk: it outlives every process, and a loss of power may
    # take the last ones.
    for setting in ("busy_timeout=5000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # One that begins by reading could not go on to write when another has written meanwhile.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _said(error: Exception) -> str:
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig if isinstance(error.orig, Exception) else error
    if isinstance(error, TimeoutError) and not str(error):
        return "it has not answered in time"
    return f"{type(error).__name__}: {error}"
