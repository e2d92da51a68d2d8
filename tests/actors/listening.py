"""A listener that keeps what it hears of a channel."""

from collections.abc import Sequence

from actors.channel.frames import News
from engines.call_requests import Request
from engines.errors import PenstockError


class Heard:
    """Keeps what becomes of a channel."""

    def __init__(self) -> None:
        self.losses: list[tuple[PenstockError, Sequence[Request]]] = []
        self.deaths = 0
        self.stalls: list[PenstockError] = []
        self.news: list[News] = []

    def lost(self, error: PenstockError, suspects: Sequence[Request], *, is_dead: bool) -> None:
        self.losses.append((error, suspects))
        self.deaths += is_dead

    def stalled(self, error: PenstockError) -> None:
        self.stalls.append(error)

    def heard(self, news: News) -> None:
        self.news.append(news)
