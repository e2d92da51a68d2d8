"""Pydantic's complaints, as one short error that names the field as the caller wrote it."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engines.errors import InvalidRequest

Body = TypeVar("Body", bound=BaseModel)
Location = tuple[int | str, ...]
Renames = Mapping[str, Location]
"""Fields of a request of `engines.requests` that the caller calls otherwise, and where the caller has them."""

_PREFIX = re.compile(r"^(Value error|Assertion failed), ")
_WORD = re.compile(r"[a-z][a-z_]*")


def parse_body(model: type[Body], data: Mapping[str, Any]) -> Body:
    """The body as its model.

    Raises:
        InvalidRequest: A field is unknown (names the nearest one), missing, or of the wrong type.
    """
    check_known(data, model.model_fields)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_request(error, data) from None


def build(request: type[Body], data: Mapping[str, Any], renames: Renames | None = None, /, **fields: Any) -> Body:
    """A request of `engines.requests` out of what the caller sent.

    Args:
        request: Its class.
        data: What the caller sent.
        renames: Fields that the caller calls otherwise.
        fields: Its fields; None means not given.

    Raises:
        InvalidRequest: A value is out of range, or fields contradict each other; in the caller's names.
    """
    try:
        return request(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise invalid_request(error, data, renames) from None


def check_known(data: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Lets the keys of an object pass.

    Raises:
        InvalidRequest: One is unknown. A misspelt parameter that is ignored is a parameter lost.
    """
    unknown = next((key for key in data if key not in known), None)
    if unknown is None:
        return
    short = unknown[:80]
    near = difflib.get_close_matches(short, list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidRequest(f"Unknown field {short!r}.{hint}", param=where + short)


def invalid_request(error: ValidationError, data: Any, renames: Renames | None = None) -> InvalidRequest:
    """One error for the caller out of what pydantic found.

    Args:
        error: What pydantic raised.
        data: What the caller sent; it tells the fields in an error's location from the names of union members.
        renames: For errors of a request built from `data`: fields that the caller calls otherwise.
    """
    found = error.errors(include_url=False, include_context=False)
    if renames is not None:
        for details in found:
            details["loc"] = _renamed(details["loc"], renames)
    # A union reports an error per member: the one that came furthest into the data is the one that was meant.
    paths = [_path(details, data) for details in found]
    path = max(paths, key=lambda path: (len(path), [piece for piece in path if isinstance(piece, int)]))
    messages = dict.fromkeys(_message(d) for d, p in zip(found, paths, strict=True) if p == path)
    message = "; or: ".join(list(messages)[:3])
    param = _notation(path) or _first_field(message, data)
    return InvalidRequest(f"{param}: {message}" if param else message, param=param)


def _renamed(loc: Location, renames: Renames) -> Location:
    new = renames.get(str(loc[0])) if loc else None
    return loc if new is None else (*new, *loc[1:])


def _path(details: ErrorDetails, data: Any) -> Location:
    path: list[int | str] = []
    current = data
    last = len(details["loc"]) - 1
    for position, piece in enumerate(details["loc"]):
        inside_object = isinstance(current, Mapping) and piece in current
        inside_list = isinstance(current, list) and isinstance(piece, int) and piece < len(current)
        if inside_object or inside_list:
            path.append(piece)
            current = current[piece]
        elif isinstance(current, Mapping) and position == last and details["type"] == "missing":
            path.append(piece)
    return tuple(path)


def _notation(path: Iterable[int | str]) -> str | None:
    text = ""
    for piece in path:
        if isinstance(piece, int):
            text += f"[{piece}]"
        else:
            text += f".{piece[:80]}" if text else piece[:80]
    return text or None


def _message(details: ErrorDetails) -> str:
    message = _PREFIX.sub("", details["msg"])
    return {"missing": "this field is required", "extra_forbidden": "unknown field"}.get(details["type"], message[:400])


def _first_field(message: str, data: Any) -> str | None:
    """The first field that the message of a whole-request check names."""
    return next((word for word in _WORD.findall(message) if word in data), None)
