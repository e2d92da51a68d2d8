"""The input of a custom tool's call, read out of the arguments of the function that the tool is to the model.

The arguments are `{"input": "..."}`, piece by piece. What they say does not depend on where the pieces end; where they
are something else, all of them are the input.
"""

import re

from deployments.http.responses.tools import INPUT

_HEAD = re.compile(rf'\s{{0,8}}\{{\s{{0,8}}"{INPUT}"\s{{0,8}}:\s{{0,8}}"')
_HEAD_CHARS = 4 * 8 + len(INPUT) + 5
"""The longest head: with so much of the arguments it is known whether there is one."""
# Of a JSON string's inside: what stands for itself, a pair of surrogates, or another escape. One that more may follow
# which belongs to it is left for later.
_PIECE = re.compile(
    r'(?P<plain>[^\\"]+)'
    r"|\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\u(?P<lone>[dD][89abAB][0-9a-fA-F]{2})(?=[^\\]|\\[^u]|\\u.{4})"
    r"|\\u(?P<code>(?![dD][89abAB])[0-9a-fA-F]{4})"
    r"|\\u(?P<none>(?![0-9a-fA-F]{4})).{4}"
    r"|\\(?P<escape>[^u])",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}


class CustomInput:
    """Reads one call's arguments."""

    __slots__ = ("_is_headed", "_is_over", "_is_raw", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._is_headed = False
        self._is_raw = False
        self._is_over = False

    def add(self, arguments: str) -> str:
        """Takes the next piece; returns what of the input is known by it."""
        if self._is_raw:
            return arguments
        if self._is_over:
            return ""
        self._text += arguments
        return self._read(is_last=False)

    def end(self) -> str:
        """There are no more pieces; returns the rest of the input."""
        if self._is_raw or self._is_over:
            return ""
        return self._read(is_last=True)

    def _read(self, *, is_last: bool) -> str:
        if not self._is_headed:
            head = _HEAD.match(self._text)
            if head is None:
                if not is_last and len(self._text) < _HEAD_CHARS:
                    return ""
                self._is_raw = True
                text, self._text = self._text, ""
                return text
            self._is_headed = True
            self._text = self._text[head.end() :]
        said, at, text = [], 0, self._text
        while found := _PIECE.match(text, at):
            said.append(_decoded(found))
            at = found.end()
        if text[at : at + 1] == '"':
            self._is_over = True
        elif is_last:
            # Cut short in the middle of an escape.
            said.append(text[at:])
        self._text = text[at:]
        return "".join(said)


def _decoded(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "plain":
            return found[0]
        case "low":
            return bytes.fromhex(found["high"] + found["low"]).decode("utf-16-be")
        case "lone" | "code" as name:
            return chr(int(found[name], 16))
        case "escape":
            return _ESCAPES.get(found["escape"], found[0])
        case _:
            return found[0]
