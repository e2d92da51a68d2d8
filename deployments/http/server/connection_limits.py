"""How many connections there are, in all and of one peer."""

from collections import Counter
from collections.abc import Callable


class ConnectionLimits:
    """Counts connections, and says whether there may be one more.

    Args:
        most: In all.
        most_per_peer: Of one address. A load balancer is one.
        on_refusal: Called for each that is one too many.
    """

    def __init__(self, most: int, most_per_peer: int, on_refusal: Callable[[], None]) -> None:
        self._most = most
        self._most_per_peer = most_per_peer
        self._on_refusal = on_refusal
        self._peers: Counter[str] = Counter()
        self._open = 0

    def enter(self, peer: str) -> bool:
        """Counts one, if it may be; `leave` when it ends."""
        if self._open >= self._most or self._peers[peer] >= self._most_per_peer:
            if not self._peers[peer]:
                del self._peers[peer]
            self._on_refusal()
            return False
        self._open += 1
        self._peers[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """One that `enter` counted has ended."""
        self._open -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
