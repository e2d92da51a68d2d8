"""What an API is made of: its endpoints, and how it writes errors."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from deployments.http.server.exchange import Exchange, Services
from deployments.http.server.request_id import HEADER
from deployments.http.server.worker import Worker
from deployments.tenants.key_file import Holder
from engines.errors import PenstockError

ID = "{id}"
"""Stands in a path for an id (`Exchange.ids`): one segment, or at the end whatever follows, slashes included."""

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]

MakeWorker = Callable[[Services], Worker | None]

ErrorText = Callable[[PenstockError, str], str]
"""The body of an error, as JSON text, given the error and the id of its request."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing that can be asked.

    Attributes:
        path: Where, and its name in metrics. Several endpoints with methods of their own may have one path.
        method: HTTP method.
        handler: Answers it.
        is_operators: Whether it takes the scope `admin`.
        holder: Who comes with a key that the API hands out itself, for this endpoint; None: it is none of those.
            Raises Unauthorized for one that does not count any more.
    """

    path: str
    method: str
    handler: Handler
    is_operators: bool = False
    holder: Callable[[Exchange, bytes], Holder | None] | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """What one kind of client speaks.

    Attributes:
        endpoints: What it can ask.
        error_text: How it reads errors.
        id_header: In which header it looks for the request's id.
        worker: Makes what it does besides answering, or None where it does nothing.
    """

    endpoints: Sequence[Endpoint]
    error_text: ErrorText
    id_header: str = HEADER
    worker: MakeWorker = lambda _: None
