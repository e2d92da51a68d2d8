"""Large JSON, parsed so that other threads go on meanwhile."""

import json
import re
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def loads_in_slices(data: bytes | bytearray) -> Any:
    """What `json.loads` makes of UTF-8; for a thread beside the event loop.

    `json.loads` keeps the interpreter's lock from its first byte to its last: in a thread it would stop all others as
    well. Here the values of the outermost object, and the elements of arrays that are among them, are parsed one by
    one, as the vectors in an answer of embeddings.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    text = data.decode("utf-8-sig")
    at = _skip(text, 0)
    value, at = _object(text, at) if text.startswith("{", at) else _decode(text, at)
    if _skip(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return value


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    made: dict[str, Any] = {}
    at = _skip(text, at + 1)
    if text.startswith("}", at):
        return made, at + 1
    while True:
        if not text.startswith('"', at):
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        name, at = _decode(text, at)
        at = _after(text, at, ":")
        made[name], at = _array(text, at) if text.startswith("[", at) else _decode(text, at)
        at = _skip(text, at)
        if text.startswith("}", at):
            return made, at + 1
        at = _after(text, at, ",")


def _array(text: str, at: int) -> tuple[list[Any], int]:
    made: list[Any] = []
    at = _skip(text, at + 1)
    if text.startswith("]", at):
        return made, at + 1
    while True:
        value, at = _decode(text, at)
        made.append(value)
        at = _skip(text, at)
        if text.startswith("]", at):
            return made, at + 1
        at = _after(text, at, ",")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # It may be empty.
    return found.end()


def _after(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return _skip(text, at + 1)
