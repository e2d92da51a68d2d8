"""Text of models and servers on its way to a terminal, which must not obey it."""

import re

_COMMANDS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and newline, and delete: escape sequences begin here.
    "\x80-\x9f"  # C1: the same begin here, in one character.
    "\u202a-\u202e\u2066-\u2069"  # Embeddings, overrides and isolates that turn the direction of what follows.
    "\ud800-\udfff"  # Halves of pairs, which no terminal can be sent.
    "]"
)


def printable(text: str) -> str:
    """The text without characters that a terminal obeys instead of showing them; tabs and newlines stay."""
    return _COMMANDS.sub("", text)
