import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.channel.upstream import Message, Upstream, Upward

streams = st.lists(
    st.lists(st.sampled_from(["stop", "kill"]), max_size=3).map(lambda rest: [("id", b"request", ()), *rest]),
    max_size=5,
)


def sent(streams: list[list[Message]], first: int) -> list[Upward]:
    return [
        (number, place, message)
        for number, messages in enumerate(streams, first)
        for place, message in enumerate(messages)
    ]


@given(streams, st.integers(1, 100), st.randoms())
def test_each_stream_is_delivered_in_its_order_however_it_comes(
    streams: list[list[Message]], first: int, random: st.DataObject
) -> None:
    messages = sent(streams, first)
    random.shuffle(messages)  # type: ignore[attr-defined]
    heard: dict[int, list[Message]] = {}
    upstream = Upstream(first, lambda number, message: heard.setdefault(number, []).append(message))
    for message in messages:
        upstream.take(message)
    assert heard == dict(enumerate(streams, first))
    assert upstream.missing is None


@given(streams.filter(len), st.data())
def test_what_never_comes_is_missed_as_long_as_others_wait_for_it(
    streams: list[list[Message]], data: st.DataObject
) -> None:
    messages = sent(streams, 1)
    lost = data.draw(st.sampled_from(messages))
    delivered: list[Upward] = []
    places: dict[int, itertools.count[int]] = {}

    def deliver(number: int, message: Message) -> None:
        place = next(places.setdefault(number, itertools.count()))
        delivered.append((number, place, message))

    upstream = Upstream(1, deliver)
    for message in data.draw(st.permutations([message for message in messages if message != lost])):
        upstream.take(message)
    number, place, _ = lost
    waits = [m for m in messages if m[0] == number and m[1] > place] or (place == 0 and number < len(streams))
    assert upstream.missing == ((number, place) if waits else None)
    assert lost not in delivered and not [m for m in delivered if m[0] == number and m[1] > place]


def test_what_comes_of_a_stream_that_is_over_is_dropped_and_misses_nothing() -> None:
    heard: list[Message] = []
    upstream = Upstream(1, lambda _, message: heard.append(message))
    upstream.take((1, 0, ("id", b"", ())))
    upstream.take((1, 2, "kill"))
    upstream.forget(1)
    upstream.take((1, 1, "stop"))
    assert heard == [("id", b"", ())]
    assert upstream.missing is None


def test_a_stream_that_ends_by_what_it_hears_hears_no_more() -> None:
    heard: list[Message] = []

    def deliver(number: int, message: Message) -> None:
        heard.append(message)
        if message == "stop":
            upstream.forget(number)

    upstream = Upstream(1, deliver)
    for message in ((1, 2, "kill"), (1, 1, "stop"), (1, 0, ("id", b"", ()))):
        upstream.take(message)  # type: ignore[arg-type]
    assert heard == [("id", b"", ()), "stop"]
    assert upstream.missing is None
