"""The prefixes of prompts that were sent to one instance, whoever sent them: what every router replica should know of.

A router replica knows what it sent by itself. The others hear of it from the instance, and one that opens its channel
later hears of all of them. What the prefixes are the instance does not know: hashes of text, by which routers know
prompts that begin alike. It keeps them in the order of their last use, each with how many tokens had been put into the
KV cache by then, and forgets those after which more came than that holds.
"""

from collections import OrderedDict

from engines.prefix_chunks import pack, unpack

MAX_PREFIXES = 100_000
"""About 15 MB."""


class SentPrefixes:
    """What was sent to the instance.

    Args:
        cache_tokens: How many tokens its KV cache holds; 0: unknown, so that only `MAX_PREFIXES` bounds them.
    """

    def __init__(self, cache_tokens: int = 0) -> None:
        self._cache_tokens = cache_tokens
        # The one that was used longest ago first.
        self._used: OrderedDict[int, int] = OrderedDict()
        self._was_cleared = False

    def __len__(self) -> int:
        return len(self._used)

    @property
    def is_worth_telling(self) -> bool:
        """Whether there are any, or were, before the cache was emptied."""
        return bool(self._used) or self._was_cleared

    def clear(self) -> None:
        """The cache was emptied."""
        self._used.clear()
        self._was_cleared = True

    def add(self, prefixes: bytes, written_tokens: int) -> None:
        """A prompt came.

        Args:
            prefixes: As `pack` packs them.
            written_tokens: What had been put into the cache by then.
        """
        used = self._used
        # The longest first, so that none is kept longer than what it begins with.
        for prefix in reversed(unpack(prefixes)):
            used[prefix] = written_tokens
            used.move_to_end(prefix)
        horizon = written_tokens - self._cache_tokens if self._cache_tokens else -1
        while used and (len(used) > MAX_PREFIXES or next(iter(used.values())) < horizon):
            used.popitem(last=False)

    def all(self) -> tuple[bytes, bytes]:
        """Every prefix, the one that was used longest ago first; and what had been put in by its last use."""
        return pack(list(self._used)), pack(list(self._used.values()))
