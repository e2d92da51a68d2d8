"""`POST /v1/realtime/client_secrets`: keys for a short while, which a server hands to the browsers of its users.

One is the fleet's own sealed text: whose it is, until when it opens sessions, and how they begin. Nobody keeps it.
"""

import json
import time
import uuid
import zlib
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field, ValidationError

from deployments.http.realtime.items import Body
from deployments.http.realtime.session_body import SessionFields, session_written
from deployments.http.server.exchange import Exchange, json_response
from deployments.http.server.names import Names
from deployments.http.server.validation import invalid_request, parse_body
from deployments.tenants.key_file import Holder
from engines.conversation.frames import TurnSettings
from engines.errors import InvalidRequest, Unauthorized

ENDPOINT = "/v1/realtime/client_secrets"
_PREFIX = "ek_"
_PURPOSE = "realtime client secret"
_MOST_CHARS = 6 * 1024
"""It travels in a header, for which servers and proxies take 8 KiB."""


class ExpiresAfter(Body):
    """When it ends; a session that it has opened goes on."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class ClientSecretBody(Body):
    """The request."""

    expires_after: ExpiresAfter = ExpiresAfter()
    session: SessionFields = SessionFields()


class _Sealed(Body):
    """What one says.

    Attributes:
        tenant: Whose it is.
        key: The SHA-256 of the key that it was made with.
        expires_at: Unix seconds.
        model: The model of its sessions; None: whoever opens one says so.
        settings: How their turns are answered.
    """

    tenant: str
    key: str
    expires_at: int
    model: str | None
    settings: TurnSettings


async def client_secrets(exchange: Exchange) -> web.StreamResponse:
    """Makes one.

    Raises:
        InvalidRequest: What its sessions are to be is wrong, or too large for a header.
        ModelNotFound: They are to be of a model that is not served.
        SecretUnavailable: The server has nothing to seal it with.
    """
    data = await exchange.body()
    body = parse_body(ClientSecretBody, data)
    session = body.session
    session.check("session")
    if session.model is not None:
        exchange.name_model(session.model)
        exchange.model_of(session.model)
    try:
        settings = session.changed(TurnSettings())
    except ValidationError as error:
        raise invalid_request(error, Names(data)) from None
    expires_at = int(time.time()) + body.expires_after.seconds
    holder = exchange.holder
    assert holder is not None
    sealed = _Sealed.model_construct(
        tenant=holder.tenant.name,
        key=holder.key.sha256,
        expires_at=expires_at,
        model=session.model,
        settings=settings,
    )
    text = sealed.model_dump_json(exclude_unset=True)
    value = _PREFIX + exchange.services.secret.seal(_PURPOSE, zlib.compress(text.encode()))
    if len(value) > _MOST_CHARS:
        raise InvalidRequest(
            f"session: it is too large for a client secret, which would have {len(value)} characters of at most "
            f"{_MOST_CHARS}. Send instructions and tools in session.update.",
            param="session",
        )
    written = session_written(f"sess_{uuid.uuid4().hex}", session.model or "", settings)
    return json_response(json.dumps({"value": value, "expires_at": expires_at, "session": written}))


def holder_of_secret(exchange: Exchange, key: bytes) -> Holder | None:
    """Who comes with a client secret; what it says of the session is noted in the exchange. None: it is none.

    Raises:
        Unauthorized: It is past its end, or the key is that it was made with, or the server has not made it.
        SecretUnavailable: The server has nothing to open it with.
    """
    text = key.decode(errors="replace")
    if not text.startswith(_PREFIX):
        return None
    opened = exchange.services.secret.open(_PURPOSE, text.removeprefix(_PREFIX))
    if opened is None:
        raise Unauthorized("The client secret is not valid.")
    sealed = _Sealed.model_validate_json(zlib.decompress(opened))
    if time.time() > sealed.expires_at:
        raise Unauthorized("The client secret has expired.")
    keys = exchange.services.keys
    if not keys.is_ready:
        return None  # Nobody can be told from anybody else now, and that is said of every key.
    holder = keys.holder_of(sealed.key)
    if holder is None or holder.tenant.name != sealed.tenant:
        raise Unauthorized("The key with which the client secret was made is not valid any more.")
    exchange.brought = sealed
    return holder


def session_brought(exchange: Exchange) -> tuple[str | None, TurnSettings]:
    """The model and the settings that came with a client secret."""
    sealed = exchange.brought
    return (sealed.model, sealed.settings) if isinstance(sealed, _Sealed) else (None, TurnSettings())
