"""Who follows the way to one instance: hears when it is lost, when a stream stalls, and what the instance says."""

from collections.abc import Sequence
from typing import Protocol

from actors.channel.frames import News
from engines.call_requests import Request
from engines.errors import PenstockError


class Listener(Protocol):
    """Hears of one instance. Called synchronously, from the event loop."""

    def lost(self, error: PenstockError, suspects: Sequence[Request], *, is_dead: bool) -> None:
        """The way to the instance was lost; its requests are about to fail.

        Args:
            error: Why.
            suspects: The requests that the instance may have been working on and that had got nothing from it.
            is_dead: Whether the instance is known to be dead, or to hang; else it fell silent, and may live.
        """

    def stalled(self, error: PenstockError) -> None:
        """A stream made no progress, and was given up; the others go on."""

    def heard(self, news: News) -> None:
        """The instance said something that every router should know."""
