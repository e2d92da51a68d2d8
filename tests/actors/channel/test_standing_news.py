from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.channel.frames import CHUNKS, DRAINING, SESSIONS, News
from actors.channel.outbox import Outbox
from actors.channel.standing_news import MAX_WAITING, MAX_WAITING_BYTES, StandingNews
from engines.prefix_chunks import pack

ALL = "all"
MAX = 5
MAX_BYTES = 64


class Instance:
    """What an instance holds, told to one router, and what the router knows of it."""

    def __init__(self, max_waiting: int = MAX, max_bytes: int = MAX_BYTES, window: int = 2) -> None:
        self.outbox = Outbox(window)
        self.news = StandingNews(self.outbox, (SESSIONS,), self.everything, max_waiting, max_bytes)
        self.held: list[str] = []
        self.known: set[str] = set()
        self.others = 0  # News of other topics that came.

    @property
    def waiting(self) -> list[News]:
        return [news for news in self.outbox._news if news.topic == SESSIONS]

    def everything(self) -> News | None:
        return News(ALL, list(self.held)) if self.held else None

    def serve(self, session: str) -> None:
        self.held.append(session)
        self.news.tell(News(SESSIONS, [(session, 0.0)]))

    def take(self) -> int:
        sequence, _, news = self.outbox.take()
        for item in [*news, *filter(None, [self.news.taken()])]:
            if item.topic == ALL:
                self.known = set(item.body)
            elif item.topic == SESSIONS:
                self.known |= {session for session, _ in item.body}
            else:
                self.others += 1
        return sequence


steps = st.lists(
    st.text("ab", min_size=1, max_size=30) | st.sampled_from(["take", "acknowledge", "drain", "everything"]),
    max_size=60,
)


@given(steps)
def test_whatever_happens_what_waits_is_bounded_and_the_router_knows_all_in_the_end(steps: list[Any]) -> None:
    instance = Instance()
    outbox, drained = instance.outbox, 0
    for step in steps:
        match step:
            case "take":
                if not outbox.is_held:
                    instance.take()
            case "acknowledge":
                outbox.acknowledge(outbox.sent)
            case "drain":
                outbox.broadcast(News(DRAINING))
                drained += 1
            case "everything":
                instance.news.tell_everything()
            case session:
                instance.serve(session)
        assert len(instance.waiting) <= MAX
        assert sum(len(id) for news in instance.waiting for id, _ in news.body) <= MAX_BYTES
        # It is not left to the next heartbeat: a frame is due.
        assert instance.known >= set(instance.held) or outbox._due_s < float("inf")
    outbox.acknowledge(outbox.sent)
    instance.take()
    assert instance.known == set(instance.held)
    assert instance.others == drained


def test_what_is_told_of_prompts_is_bounded_by_its_bytes() -> None:
    outbox = Outbox(4)
    news = StandingNews(outbox, (CHUNKS,), lambda: News(ALL))
    half = pack([1] * (MAX_WAITING_BYTES // 16))
    news.tell(News(CHUNKS, (1, half, b"")))
    assert len(outbox._news) == 1
    news.tell(News(CHUNKS, (2, half, b"x")))
    assert not outbox._news
    assert news.taken() == News(ALL)
    assert news.taken() is None


def test_a_router_that_takes_its_frames_hears_of_each_change() -> None:
    instance = Instance(MAX_WAITING, MAX_WAITING_BYTES)
    for number in range(MAX_WAITING):
        instance.serve(str(number))
    assert len(instance.waiting) == MAX_WAITING
    instance.serve("one more")
    assert not instance.waiting
    instance.take()
    assert instance.known == set(instance.held)
