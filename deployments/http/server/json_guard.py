"""JSON from strangers: parsed whole, or refused with what is wrong and where.

Python's own parser takes more than JSON (NaN, duplicate keys, numbers too large for a float) and goes as deep as the
stack; everything behind this file may rely on plain, finite, bounded values.

What a body costs is bounded before any of it is parsed: its values are counted over the raw bytes, strings left out.
Counting, and the parsing of long lists of whole numbers (token ids may well be a million), come in slices, so that an
event loop can have a turn in between; what is left is bounded so that one turn is short.
"""

import json
import math
import re
from collections.abc import Generator, Sequence
from random import SystemRandom
from typing import Any

from deployments.fleet_settings import MAX_TOKEN_IDS
from engines.errors import InvalidRequest
from engines.garbage import CollectorPaused

MAX_KEYS = 10_000
"""Keys of one object. A schema validator reports each unknown key by itself: a million of them must not reach it."""
MAX_OBJECTS = 10_000
"""Objects of one body, for the same reason."""
MAX_CONTAINERS = 25_000
"""Lists and objects of one body: each costs as much as ten other values, and more where it is pickled."""
MAX_NODES = 150_000
"""Values and keys of one body, those of long lists of whole numbers left out."""
MAX_FLOATS = 20_000
"""Numbers with a fraction or an exponent."""
MAX_DIGITS = 320
"""Digits of one number, those of the largest float written out: Python converts them in quadratic time."""

SLICE_BYTES = 256 * 1024
"""What is counted or parsed in one turn."""
_LONG_BYTES = 1024
"""A list of whole numbers of at least so many bytes is parsed by itself."""

_LONG_LIST = re.compile(rb"\[[-0-9, \t\r\n]{%d}" % _LONG_BYTES)
_NUMBERS = re.compile(rb"[-0-9, \t\r\n]*+")
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_NONCES = SystemRandom()
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Guard:
    """The parser's hooks, for one body.

    Args:
        prefix: How the numbers begin that stand for a long list.
        lists: Those lists, which are filled later.
    """

    __slots__ = ("floats", "lists", "objects", "prefix")

    def __init__(self, prefix: str, lists: list[list[int]]) -> None:
        self.objects = 0
        self.floats = 0
        self.prefix = prefix
        self.lists = lists

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

    def float(self, text: str) -> Any:
        if text.startswith(self.prefix):
            return self.lists[int(text[len(self.prefix) :])]
        self.floats += 1
        if self.floats > MAX_FLOATS:
            raise InvalidRequest(f"The body holds more than {MAX_FLOATS} numbers with a fraction.")
        number = float(text)
        if not math.isfinite(number):
            raise InvalidRequest(f"The number {text[:40]} is too large.")
        return number

    def constant(self, name: str) -> Any:
        raise InvalidRequest(f"The body is not valid JSON: {name} is not a JSON number.")


class _Survey:
    """What a body is made of, told from its raw bytes.

    Args:
        body: Those.
        max_numbers: Whole numbers in long lists.
        before: What was counted already belongs to the same request.

    Attributes:
        long_lists: Where its long lists of whole numbers begin and end.
    """

    __slots__ = ("_body", "_containers", "_in_string", "_max_numbers", "_nodes", "_numbers", "_pending", "long_lists")

    def __init__(self, body: bytes, max_numbers: int, before: "_Survey | None" = None) -> None:
        self._body = body
        self._max_numbers = max_numbers
        self._in_string = False
        self._pending = b""
        self._nodes: int = 1 + (0 if before is None else before._nodes)
        self._containers: int = 0 if before is None else before._containers
        self._numbers: int = 0 if before is None else before._numbers
        self.long_lists: list[tuple[int, int]] = []

    def slices(self) -> Generator[None]:
        """Goes through the body, a slice in a turn.

        Raises:
            InvalidRequest: There is more in it than may be.
        """
        body, at = self._body, 0
        while at < len(body):
            found = _LONG_LIST.search(body, at, at + SLICE_BYTES + _LONG_BYTES)
            if found is None:
                self._count(body[at : at + SLICE_BYTES])
                at += SLICE_BYTES
            else:
                start = found.start()
                self._count(body[at:start])
                numbers = _NUMBERS.match(body, start + 1)
                assert numbers is not None
                at = numbers.end()
                if self._in_string:
                    # A text that looks like one. It has no quotes and no backslashes in it.
                    self._pending = b""
                elif body[at : at + 1] == b"]":
                    at += 1
                    self._add_numbers(start, at)
                else:
                    self._count(body[start:at])
            if at < len(body):
                yield

    def _add_numbers(self, start: int, end: int) -> None:
        self._containers += 1
        self._numbers += self._body.count(b",", start, end) + 1
        if self._numbers > self._max_numbers:
            raise InvalidRequest(f"The body holds more than {self._max_numbers} whole numbers (token ids).")
        self.long_lists.append((start, end))

    def _count(self, text: bytes) -> None:
        text = self._pending + text
        self._pending = b""
        if b"\\" in text:
            # An escape that goes on in the next slice is looked at with it.
            if (len(text) - len(text.rstrip(b"\\"))) % 2:
                self._pending = b"\\"
                text = text[:-1]
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        quotes = text.count(b'"')
        self._nodes += quotes // 2
        self._check()
        outside = b"".join(text.split(b'"')[self._in_string :: 2]) if quotes else b"" if self._in_string else text
        self._in_string ^= bool(quotes % 2)
        containers = outside.count(b"[") + outside.count(b"{")
        self._containers += containers
        # A value stands after a comma or first in its container. Strings were counted by their quotes already, so this
        # counts a list of them twice: what is bounded is what a body costs.
        self._nodes += containers + outside.count(b",")
        self._check()
        if _has_long_number(outside):
            raise _too_many_digits()

    def _check(self) -> None:
        if self._containers > MAX_CONTAINERS:
            raise InvalidRequest(f"The body holds more than {MAX_CONTAINERS} JSON lists and objects.")
        if self._nodes > MAX_NODES:
            raise InvalidRequest(f"The body holds more than {MAX_NODES} JSON values.")


def parse_object(body: bytes, max_depth: int, max_numbers: int = MAX_TOKEN_IDS) -> dict[str, Any]:
    """The JSON object in a body, in one go; `parse_in_slices` is for large ones.

    Args:
        body: UTF-8 text.
        max_depth: Levels of lists and objects, the outermost counted.
        max_numbers: Whole numbers in long lists: token ids.

    Raises:
        InvalidRequest: It is not one, or it is one that nobody means.
    """
    parsing = parse_in_slices(body, max_depth, max_numbers)
    while True:
        try:
            next(parsing)
        except StopIteration as end:
            parsed: dict[str, Any] = end.value
            return parsed


def parse_in_slices(
    body: bytes, max_depth: int, max_numbers: int = MAX_TOKEN_IDS
) -> Generator[None, None, dict[str, Any]]:
    """The JSON object of a body, checked while it is parsed; yields wherever it can wait, and returns the object.

    Raises:
        InvalidRequest: As `parse_object`.
    """
    survey = _Survey(body, max_numbers)
    yield from survey.slices()
    if len(body) > SLICE_BYTES:
        yield
    value, lists = _parse(body, survey.long_lists, max_depth)
    for numbers, (start, end) in zip(lists, survey.long_lists, strict=True):
        yield from _fill(numbers, body, start, end)
    return value


def check_texts(texts: Sequence[tuple[str, str]]) -> None:
    """Lets JSON pass that stands as text in a body, which was one string to its guard, and that others will parse.

    Args:
        texts: Name and text of each.

    Raises:
        InvalidRequest: Together they hold more than a body may; names the text.
    """
    # What is inside of strings counts here, so that most are not looked at more closely.
    if sum(text.count(mark) for _, text in texts for mark in "[{,") <= MAX_CONTAINERS:
        return
    survey = None
    for name, text in texts:
        survey = _Survey(text.encode("utf-8", "surrogatepass"), MAX_NODES, survey)
        try:
            for _ in survey.slices():
                pass
        except InvalidRequest as error:
            raise InvalidRequest(f"{name}: {error.message.replace('The body', 'it')}", param=name) from None


def _parse(body: bytes, long_lists: list[tuple[int, int]], max_depth: int) -> tuple[dict[str, Any], list[list[int]]]:
    """The object, with its long lists still empty, and those lists."""
    # A number that nobody can guess stands for each of them, and the parser's hook for numbers puts the list there.
    prefix = f"0.{_NONCES.getrandbits(64)}e"
    lists: list[list[int]] = [[] for _ in long_lists]
    guard = _Guard(prefix, lists)
    try:
        with CollectorPaused():
            value = json.loads(
                _without(body, long_lists, prefix).decode("utf-8"),
                object_pairs_hook=guard.object,
                parse_float=guard.float,
                parse_constant=guard.constant,
            )
    except UnicodeDecodeError:
        raise _not_text(body) from None
    except json.JSONDecodeError as error:
        raise _not_json(error, body, _origin(error.pos, body, long_lists, prefix)) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError:
        # Python refuses to convert integers of thousands of digits.
        raise _too_many_digits() from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_depth(value, max_depth)
    if _ESCAPED_SURROGATE.search(body):
        _check_surrogates(value)
    return value, lists


def _without(body: bytes, long_lists: list[tuple[int, int]], prefix: str) -> bytes:
    if not long_lists:
        return body
    pieces = []
    at = 0
    for index, (start, end) in enumerate(long_lists):
        pieces.append(body[at:start])
        # Apart from its neighbours, with which it could make up another number.
        pieces.append(f" {prefix}{index} ".encode())
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)


def _origin(position: int, body: bytes, long_lists: list[tuple[int, int]], prefix: str) -> int:
    """Where the character at `position` of the text without its long lists stands in the body's own text."""
    before = 0
    at = 0
    for index, (start, end) in enumerate(long_lists):
        before += len(body[at:start].decode("utf-8"))
        at = end
        if position <= before + 1:
            return min(position, before)
        short = len(f" {prefix}{index} ")
        position += end - start - short
        before += end - start
    return position


def _fill(numbers: list[int], body: bytes, start: int, end: int) -> Generator[None]:
    """Parses the list of whole numbers between `start` and `end` into `numbers`, a slice in a turn."""
    at = start + 1
    while True:
        comma = body.find(b",", at + SLICE_BYTES, end)
        upto = end - 1 if comma < 0 else comma
        text = body[at:upto]
        if _has_long_number(text):
            raise _too_many_digits()
        try:
            parsed = json.loads(b"[%b]" % text)
        except json.JSONDecodeError as error:
            raise _not_json(error, body, len(body[:at].decode("utf-8")) + error.pos - 1) from None
        if not parsed and (at > start + 1 or comma >= 0):
            missing = json.JSONDecodeError("Expecting value", "", 0)
            raise _not_json(missing, body, len(body[:upto].decode("utf-8")))
        numbers.extend(parsed)
        yield
        if comma < 0:
            return
        at = comma + 1


def _not_json(error: json.JSONDecodeError, body: bytes, position: int) -> InvalidRequest:
    located = json.JSONDecodeError(error.msg, body.decode("utf-8"), position)
    where = f"line {located.lineno} column {located.colno}"
    return InvalidRequest(f"The body is not valid JSON: {error.msg} at {where}.")


def _not_text(body: bytes) -> InvalidRequest:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return InvalidRequest(f"The body is not UTF-8 text: a bad byte at position {error.start}.")
    return InvalidRequest("The body is not UTF-8 text.")


def _has_long_number(text: bytes) -> bool:
    return text.translate(_ZEROS).find(b"0" * (MAX_DIGITS + 1)) >= 0


def _too_many_digits() -> InvalidRequest:
    return InvalidRequest(f"The body holds a number with too many digits; at most {MAX_DIGITS} are taken.")


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
