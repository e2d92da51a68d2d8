"""Pydantic's complaints, as one short error that names the field as the caller wrote it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deployments.http.server.names import Location, Names, notation
from engines.errors import InvalidRequest
from engines.garbage import CollectorPaused
from engines.nearest import did_you_mean

Body = TypeVar("Body", bound=BaseModel)

_PREFIX = re.compile(r"^(Value error|Assertion failed), ")
_NOTHING = object()
_WORD = re.compile(r"[a-z][a-z_]*")


def parse_body(model: type[Body], data: Mapping[str, Any]) -> Body:
    """The body as its model.

    Raises:
        InvalidRequest: A field is unknown (names the nearest one), missing, or of the wrong type.
    """
    check_known(data, model.model_fields)
    try:
        with CollectorPaused():
            return model.model_validate(data)
    except ValidationError as error:
        raise invalid_request(error, Names(data)) from None


def build(request: type[Body], names: Names, /, **fields: Any) -> Body:
    """A request of `engines.requests` out of what the caller sent.

    Args:
        request: Its class.
        names: What the caller sent, and calls its fields.
        fields: Its fields; None means not given.

    Raises:
        InvalidRequest: A value is out of range, or fields contradict each other; in the caller's names.
    """
    try:
        with CollectorPaused():
            return request(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise invalid_request(error, names) from None


def check_known(data: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Lets the keys of an object pass.

    Raises:
        InvalidRequest: One is unknown. A misspelt parameter that is ignored is a parameter lost.
    """
    unknown = next((key for key in data if key not in known), None)
    if unknown is None:
        return
    short = unknown[:80]
    raise InvalidRequest(f"Unknown field {short!r}.{did_you_mean(short, known)}", param=where + short)


def invalid_request(error: ValidationError, names: Names) -> InvalidRequest:
    """One error for the caller out of what pydantic found.

    Args:
        error: What pydantic raised.
        names: What the caller sent, and calls its fields.
    """
    found = error.errors(include_url=False, include_context=False)
    # A union reports an error per member: the one that came furthest into the data is the one that was meant.
    paths = [_path(details, names) for details in found]
    path = max(paths, key=lambda path: (len(path), [piece for piece in path if isinstance(piece, int)]))
    messages = dict.fromkeys(_message(d) for d, p in zip(found, paths, strict=True) if p == path)
    message = names.text("; or: ".join(list(messages)[:3]))
    param = notation(path) or _first_field(message, names.data)
    return InvalidRequest(f"{param}: {message}" if param else message, param=param)


def wrong_at(place: Location, why: str) -> InvalidRequest:
    """One error about what is at a place of what the caller sent."""
    param = notation(place)
    return InvalidRequest(f"{param}: {why}", param=param)


def _path(details: ErrorDetails, names: Names) -> Location:
    """Where the error is, in what the caller sent: without the names of union members, which pydantic puts between."""
    location = tuple(piece for piece in details["loc"] if isinstance(piece, int) or not piece.startswith("list["))
    callers, rest = names.place(location)
    path = list(callers or ())
    current: Any = names.data
    for piece in path:
        current = _inside(current, piece)
    for position, piece in enumerate(rest):
        inner = _inside(current, piece)
        if inner is not _NOTHING:
            path.append(piece)
            current = inner
        elif isinstance(current, Mapping) and position == len(rest) - 1 and details["type"] == "missing":
            path.append(piece)
    return tuple(path)


def _inside(data: Any, piece: int | str) -> Any:
    """What is at that place of an object or list."""
    if isinstance(data, Mapping):
        return data.get(piece, _NOTHING)
    if isinstance(data, list) and isinstance(piece, int) and piece < len(data):
        return data[piece]
    return _NOTHING


def _message(details: ErrorDetails) -> str:
    message = _PREFIX.sub("", details["msg"])
    return {"missing": "this field is required", "extra_forbidden": "unknown field"}.get(details["type"], message[:400])


def _first_field(message: str, data: Any) -> str | None:
    """The first field that the message of a whole-request check names."""
    return next((word for word in _WORD.findall(message) if word in data), None)
