"""Where and when to serve a request: from fields of the body, or from headers for clients that cannot add fields."""

import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field

from deployments.http.server.names import Location
from engines.errors import InvalidRequest
from engines.requests import Session

INSTANCE_HEADER = "x-penstock-instance"
MODEL_HEADER = "x-penstock-model"
PRIORITY_HEADER = "x-penstock-priority"
MAX_HEADER_CHARS = 512

_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class DispatchHints:
    """The headers' values; the body's fields of the same meaning go before them.

    Attributes:
        session_id: Sticky dispatch.
        instance: Direct dispatch.
        priority: Lower is served first.
        session_header: The header that carries the first.
    """

    session_id: str | None = None
    instance: str | None = None
    priority: int | None = None
    session_header: str = ""


class DispatchFields(BaseModel):
    """The body's fields, of the same meaning as DispatchHints; Penstock's own."""

    session_id: str | None = Field(None, min_length=1, max_length=512)
    instance: str | None = Field(None, min_length=1, max_length=512)
    priority: int | None = None

    def dispatch(self, hints: DispatchHints) -> dict[str, Any]:
        """The fields of a request of `engines.requests` that say the same; None where nothing was said."""
        session_id = self.session_id if self.session_id is not None else hints.session_id
        return {
            "session": None if session_id is None else Session(id=session_id),
            "instance": self.instance if self.instance is not None else hints.instance,
            "priority": self.priority if self.priority is not None else hints.priority,
        }

    def dispatch_names(self, hints: DispatchHints) -> dict[Location, Location | None]:
        """Where each of those fields was said."""
        by_header = self.session_id is None and hints.session_id is not None
        table: dict[Location, Location | None] = {
            ("session",): (hints.session_header if by_header else "session_id",),
            ("session", "id"): (hints.session_header if by_header else "session_id",),
        }
        if self.instance is None and hints.instance is not None:
            table["instance",] = (INSTANCE_HEADER,)
        if self.priority is None and hints.priority is not None:
            table["priority",] = (PRIORITY_HEADER,)
        return table


def dispatch_hints(request: web.BaseRequest, session_header: str) -> DispatchHints:
    """Reads the headers.

    Raises:
        InvalidRequest: One is not what it should be; names the header.
    """
    priority = _text(request, PRIORITY_HEADER)
    if priority is not None and not _INTEGER.fullmatch(priority):
        raise InvalidRequest(f"{PRIORITY_HEADER}: it must be an integer.", param=PRIORITY_HEADER)
    return DispatchHints(
        session_id=_text(request, session_header),
        instance=_text(request, INSTANCE_HEADER),
        priority=None if priority is None else int(priority),
        session_header=session_header,
    )


def _text(request: web.BaseRequest, header: str) -> str | None:
    value = request.headers.get(header)
    if not value:
        return None
    if len(value) > MAX_HEADER_CHARS or not value.isprintable():
        # Bytes that are not UTF-8 arrive as surrogates, which are not printable either.
        raise InvalidRequest(f"{header}: it must be at most {MAX_HEADER_CHARS} printable characters.", param=header)
    return value
