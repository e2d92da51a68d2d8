"""One stream at the caller's end of a channel."""

import asyncio

import pytest

from actors.channel.open_stream import OpenStream
from engines.requests import GenerateRequest
from tests.actors.channel_reader import request
from tests.contract.asking import Recorder


@pytest.mark.parametrize(
    ("heard", "has_hung", "is_suspect"),
    [
        ([], False, True),
        ([(0, False)], False, True),
        ([(0, False)], True, False),
        ([(0, False), (0, False)], False, False),
        ([(0, False), (0, False), (16, True)], False, True),
        ([(0, False), (16, True), (0, False)], False, True),
    ],
)
async def test_what_waits_in_a_queue_for_longer_than_a_moment_is_no_suspect(
    heard: list[tuple[int, bool]], has_hung: bool, is_suspect: bool
) -> None:
    asked: GenerateRequest = request()
    stream = OpenStream(Recorder(), asked, asyncio.get_running_loop().create_future(), came_late=False)
    for progress in heard:
        stream.hear(progress)
    assert stream.suspect(has_hung=has_hung) == (asked if is_suspect else None)
