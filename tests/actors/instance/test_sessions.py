from actors.instance.sessions import MAX_SESSIONS, TELL_AGAIN_S, Sessions
from tests.clock import Clock


def test_a_session_is_told_once_and_again_after_a_while() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    assert sessions.use("a")
    assert not sessions.use("a")
    clock.now_s += TELL_AGAIN_S / 2
    assert sessions.use("b")
    clock.now_s += TELL_AGAIN_S / 2
    assert sessions.use("a")
    assert not sessions.use("b")
    clock.now_s += 1
    assert sessions.all() == [("b", TELL_AGAIN_S / 2 + 1), ("a", 1)]


def test_the_session_told_longest_ago_is_forgotten_first() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    for index in range(MAX_SESSIONS):
        sessions.use(str(index))
    clock.now_s += TELL_AGAIN_S
    sessions.use("0")
    sessions.use("one more")
    known = [session for session, _ in sessions.all()]
    assert len(known) == MAX_SESSIONS
    assert known[0] == "2" and known[-2:] == ["0", "one more"]
