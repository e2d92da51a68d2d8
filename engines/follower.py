"""What works for an engine on a further node, where one engine spreads over several."""

from abc import ABC, abstractmethod


class Follower(ABC):
    """The ranks of an engine on one of its further nodes, which take their work from those on the first.

    It is made in a process of its own, and ends with that.
    """

    @abstractmethod
    async def run(self) -> None:
        """Starts the ranks, and waits for their end: the whole engine is finished then.

        Raises:
            PenstockError: Always; says why they have ended, or cannot start.
        """
