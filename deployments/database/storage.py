"""What a router replica keeps in the database, and the database."""

import os
import uuid
from pathlib import Path

from sqlalchemy import URL, make_url

from deployments.database.background_responses import BackgroundResponses
from deployments.database.database import Database
from deployments.database.kept_chat_completions import KeptChatCompletions
from deployments.database.kept_conversations import KeptConversations
from deployments.database.kept_responses import KeptResponses
from deployments.database.kept_sessions import KeptSessions
from deployments.fleet_settings import DatabaseSettings, HttpSettings, check_database_url


class Storage:
    """What one replica keeps.

    Args:
        settings: Where.
        bounds: What is kept, and for how long.

    Attributes:
        database: The database.
        sessions: Realtime sessions.
        responses: Responses.
        background: Responses that are made in the background, until they have ended.
        conversations: Conversations by name.
        chat_completions: Chat completions.
    """

    def __init__(self, settings: DatabaseSettings, bounds: HttpSettings) -> None:
        try:
            url, problem = _url(settings), ""
        except ValueError as error:
            url, problem = None, str(error)
        self.database = Database(url, problem)
        sessions, responses, completions = bounds.realtime, bounds.responses, bounds.chat_completions
        self.sessions = KeptSessions(self.database, sessions.max_kept_bytes_per_tenant)
        self.conversations = KeptConversations(
            self.database, responses.keep_s, responses.max_conversation_bytes_per_tenant, bounds.max_body_bytes
        )
        self.responses = KeptResponses(
            self.database, responses.keep_s, responses.max_kept_bytes_per_tenant, conversations=self.conversations
        )
        background = responses.background
        self.background = BackgroundResponses(
            self.database, uuid.uuid4().hex, background.max_per_tenant, background.max_bytes_per_tenant
        )
        self.chat_completions = KeptChatCompletions(
            self.database, completions.keep_s, completions.max_kept_bytes_per_tenant
        )

    async def start(self) -> None:
        """Opens it. A database that is not there is tried again and again."""
        await self.database.start()
        self.sessions.start()
        self.conversations.start()
        self.responses.start()
        self.background.start()
        self.chat_completions.start()

    async def stop(self) -> None:
        """Closes it."""
        await self.chat_completions.stop()
        await self.background.stop()
        await self.responses.stop()
        await self.conversations.stop()
        await self.sessions.stop()
        await self.database.stop()


def _url(settings: DatabaseSettings) -> URL:
    """Where the database is.

    Raises:
        ValueError: The environment does not say so.
    """
    if settings.file is not None:
        return URL.create("sqlite+aiosqlite", database=str(Path(settings.file).absolute()))
    text = settings.url
    if text is None:
        assert settings.url_env is not None
        text = os.environ.get(settings.url_env, "")
        if not text:
            raise ValueError(f"The environment variable {settings.url_env} of the router replica is not set.")
    try:
        check_database_url(text)
    except ValueError as error:
        raise ValueError(f"database.{'url' if settings.url else 'url_env'}: {error}") from None
    return make_url(text).set(drivername="postgresql+asyncpg")
