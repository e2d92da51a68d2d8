"""The limit of tokens per minute."""

import pytest

from engines.errors import RateLimited
from engines.remote.token_rate import TokenRate


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_minute_slides() -> None:
    clock = Clock()
    rate = TokenRate("remote-0", 10, clock)
    for tokens in (3, 4):
        rate.check()
        rate.spend(tokens)
        clock.now_s += 10
    rate.check()
    rate.spend(5)  # 12, at 120 s: the three of the first leave 9.
    with pytest.raises(RateLimited) as caught:
        rate.check()
    assert caught.value.retry_after_s == 40
    clock.now_s += 40
    rate.check()
    rate.spend(20)  # 29: the four, the five, and the twenty itself must go.
    with pytest.raises(RateLimited) as caught:
        rate.check()
    assert caught.value.retry_after_s == 60
    clock.now_s += 60
    rate.check()


def test_without_a_limit_nothing_is_counted() -> None:
    rate = TokenRate("remote-0", None)
    rate.spend(10**9)
    rate.check()
    assert not rate._spent
