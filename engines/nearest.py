"""What somebody may have meant who misspelt a name."""

import difflib
from collections.abc import Iterable

_LIKENESS = 0.5
"""From 0 to 1: below it a name is another one, not a misspelt one."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the word; None where none is."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=_LIKENESS)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the nearest of the known names, with a space before it; empty where none is near."""
    near = nearest(word, known)
    return f" Did you mean {near!r}?" if near is not None else ""
