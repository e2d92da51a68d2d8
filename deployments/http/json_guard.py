"""JSON from strangers: parsed whole, or refused with what is wrong and where.

Python's own parser takes more than JSON (NaN, duplicate keys, numbers too large for a float) and goes as deep as the
stack; everything behind this file may rely on plain, finite, bounded values.
"""

import json
import math
import re
from typing import Any

from engines.errors import InvalidRequest

MAX_KEYS = 10_000
"""Keys of one object. A schema validator reports each unknown key by itself: a million of them must not reach it."""
MAX_OBJECTS = 20_000
"""Objects of one body, for the same reason."""

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Guard:
    """The parser's hooks, for one body."""

    __slots__ = ("objects",)

    def __init__(self) -> None:
        self.objects = 0

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise InvalidRequest(f"The body holds more than {MAX_OBJECTS} JSON objects.")
        if len(pairs) > MAX_KEYS:
            raise InvalidRequest(f"The body holds a JSON object with more than {MAX_KEYS} keys.")
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            seen = set()
            for key, _ in pairs:
                if key in seen:
                    raise InvalidRequest(f"The key {_shown(key)} is there twice.", param=_shown(key, quote=False))
                seen.add(key)
        return parsed

    def float(self, text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise InvalidRequest(f"The number {text[:40]} is too large.")
        return number

    def constant(self, name: str) -> Any:
        raise InvalidRequest(f"The body is not valid JSON: {name} is not a JSON number.")


def parse_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """The JSON object in a body.

    Args:
        body: UTF-8 text.
        max_depth: Levels of lists and objects, the outermost counted.

    Raises:
        InvalidRequest: It is not one, or it is one that nobody means.
    """
    guard = _Guard()
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=guard.object,
            parse_float=guard.float,
            parse_constant=guard.constant,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 text: a bad byte at position {error.start}.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidRequest(f"The body is not valid JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError:
        # Python refuses to convert integers of thousands of digits, because the time grows with their square.
        raise InvalidRequest("The body holds an integer with too many digits.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_depth(value, max_depth)
    if _ESCAPED_SURROGATE.search(body):
        _check_surrogates(value)
    return value


def _too_deep(max_depth: int) -> InvalidRequest:
    return InvalidRequest(f"The body is nested more than {max_depth} levels deep.")


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise _too_deep(max_depth)


def _check_surrogates(value: Any) -> None:
    """Half of a surrogate pair is no character: it cannot be encoded, so nothing behind this could send it on."""
    try:
        # Whole pairs are common (emoji), halves are not: the fast way first, the way that knows where only then.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _name_surrogate(value)


def _name_surrogate(value: Any) -> None:
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        path, current = todo.pop()
        if type(current) is str:
            try:
                current.encode("utf-8")
            except UnicodeEncodeError:
                raise InvalidRequest(
                    "The text holds half of a surrogate pair, which is no character.", param=path or None
                ) from None
        elif type(current) is dict:
            for key, child in current.items():
                name = _shown(key, quote=False)
                todo.append((path, key))
                todo.append((f"{path}.{name}" if path else name, child))
        elif type(current) is list:
            todo.extend((f"{path}[{index}]", child) for index, child in enumerate(current))


def _shown(key: str, *, quote: bool = True) -> str:
    """A key as it may stand in a message: short, and free of what cannot be encoded."""
    short = key[:80].encode("utf-8", "replace").decode()
    return repr(short) if quote else short
