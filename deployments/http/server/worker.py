"""What an API does besides answering requests, for as long as a router replica lives."""

from abc import ABC, abstractmethod


class Worker(ABC):
    """Works in the background."""

    @abstractmethod
    def start(self) -> None:
        """Begins."""

    @abstractmethod
    def drain(self) -> None:
        """The replica is about to end: begins nothing more, and hands over what it has."""

    @abstractmethod
    async def stop(self) -> None:
        """Ends."""
