"""Many requests at once: each gets its own answer."""

import asyncio

import pytest

from tests.contract.asking import Running, counted

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_request_of_many_gets_its_own_answer(subject: Running) -> None:
    ranges = [(3 * number + 1, 3 * number + 6 + number % 9) for number in range(32)]
    completions = await asyncio.gather(*(subject.ask(subject.counting(*pair)) for pair in ranges))
    assert [completion.text for completion in completions] == [counted(*pair) for pair in ranges]
    await subject.still_serves()


async def test_waves_of_requests_each_get_their_own_answer(subject: Running) -> None:
    for wave in range(4):
        ranges = [(wave * 10 + number, wave * 10 + number + 5) for number in range(16)]
        completions = await asyncio.gather(*(subject.ask(subject.counting(*pair)) for pair in ranges))
        assert [completion.text for completion in completions] == [counted(*pair) for pair in ranges]


async def test_long_and_short_answers_share_the_engine(subject: Running) -> None:
    long = asyncio.ensure_future(subject.ask(subject.counting(1, 150)))
    for _ in range(5):
        assert (await subject.ask(subject.counting(5, 7))).text == "5 6 7"
    assert (await long).text == counted(1, 150)
