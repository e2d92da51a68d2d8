"""Filling in the middle: how a model that was trained for it is shown what comes before a gap and after it.

Models differ in their special tokens, in their order and in the spaces around them, so a fleet file gives all of it as
one template: `<|fim_prefix|>{prompt}<|fim_suffix|>{suffix}<|fim_middle|>`.
"""

import re
from dataclasses import dataclass
from typing import Self

PROMPT, SUFFIX = "{prompt}", "{suffix}"
_PLACES = re.compile("|".join(map(re.escape, (PROMPT, SUFFIX))))


@dataclass(frozen=True, slots=True)
class FillInTheMiddle:
    """A template, taken apart. What callers send is no part of it: a place in their texts is text.

    Attributes:
        pieces: Its own text: before the first place, between the two, after the second.
        suffix_first: Whether the text after the gap comes before the text before it.
    """

    pieces: tuple[str, str, str]
    suffix_first: bool

    @classmethod
    def parse(cls, template: str) -> Self:
        """A template as it is written.

        Raises:
            ValueError: It has not each of both places once, or nothing between them.
        """
        places = _PLACES.findall(template)
        if sorted(places) != [PROMPT, SUFFIX]:
            raise ValueError(f"a template has {PROMPT} and {SUFFIX} once each, not {template!r}")
        before, between, after = _PLACES.split(template)
        if not between:
            raise ValueError(f"a template tells {PROMPT} and {SUFFIX} apart by a text between them, not {template!r}")
        return cls((before, between, after), places[0] == SUFFIX)

    def filled(self, prompt: str, suffix: str) -> str:
        """What the model continues.

        Args:
            prompt: The text before the gap.
            suffix: The text after it.
        """
        before, between, after = self.pieces
        first, second = (suffix, prompt) if self.suffix_first else (prompt, suffix)
        return f"{before}{first}{between}{second}{after}"


def check_template(template: str) -> str:
    """A template that is one.

    Raises:
        ValueError: It is none.
    """
    FillInTheMiddle.parse(template)
    return template
