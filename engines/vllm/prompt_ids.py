"""The token ids of rendered prompts, segment by segment, so that what was tokenized before is not tokenized again."""

from array import array
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from sys import getsizeof

from engines.vllm.segments import Splitter

_ENTRY_BYTES = 300
"""Of the objects of an entry, about, besides what measures itself."""
_SHORT = 2048
"""Known text of so many characters costs less to tokenize again, between two pieces of new text, than a call does."""


class PromptIds:
    """Ids by segments of prompts. Where it is full, those that were used least recently make room.

    It belongs to one thread at a time.

    Args:
        splitter: Splits prompts where the tokenizer bears it.
        max_bytes: Most memory that it takes.
    """

    def __init__(self, splitter: Splitter, max_bytes: int) -> None:
        self._splitter = splitter
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        return self._bytes

    def ids(self, text: str, salt: str, tokenize: Callable[[str], list[int]], limit: int | None) -> list[int]:
        """What the text tokenizes to.

        Args:
            text: A rendered prompt.
            salt: Only what was tokenized with the same one is known.
            tokenize: Gives the ids of a text, without special tokens around them, and no more than `limit`.
            limit: Of longer prompts, the ids of their beginning will do; None: there are none too long.
        """
        segments = self._splitter.split(text)
        starts = [0, *accumulate(map(len, segments))]
        known = [self._find(salt, segment) for segment in segments]
        ids: list[int] = []
        index = 0
        while index < len(segments):
            if (found := known[index]) is not None:
                ids.extend(found)
                index += 1
                continue
            end = _end_of_new(known, starts, index)
            made = tokenize(text[starts[index] : starts[end]])
            if limit is None or len(made) < limit:
                self._keep(salt, segments[index:end], made)
            ids.extend(made)
            index = end
        return ids if limit is None else ids[:limit]

    def _find(self, salt: str, segment: str) -> "array[int] | None":
        key = salt, segment
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def _keep(self, salt: str, segments: list[str], ids: list[int]) -> None:
        """Keeps the ids of segments that were tokenized together."""
        first = [self._splitter.first_id(segment) for segment in segments]
        at = [position for position, token_id in enumerate(ids) if token_id in self._splitter.token_ids]
        if [ids[position] for position in at] != [token_id for token_id in first if token_id is not None]:
            return  # The model made such an id of other text: which ids are whose is not known.
        if first[0] is None:
            at.insert(0, 0)
        at.append(len(ids))
        for index, segment in enumerate(segments):
            self._put((salt, segment), array("i", ids[at[index] : at[index + 1]]))

    def _put(self, key: tuple[str, str], ids: "array[int]") -> None:
        if key in self._entries:
            return
        size = _size(key, ids)
        if size > self._max_bytes:
            return
        self._entries[key] = ids
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*self._entries.popitem(last=False))


def _size(key: tuple[str, str], ids: "array[int]") -> int:
    salt, segment = key
    return _ENTRY_BYTES + getsizeof(salt) + getsizeof(segment) + getsizeof(ids)


def _end_of_new(known: "list[array[int] | None]", starts: list[int], index: int) -> int:
    """Behind the last segment that is worth tokenizing together with the new one at `index`."""
    end = index + 1
    for following in range(end, len(known)):
        if known[following] is None:
            end = following + 1
        elif starts[following + 1] - starts[end] > _SHORT:
            break
    return end
