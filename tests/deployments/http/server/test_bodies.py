"""The budget of all bodies that are being read, and the turns of those that are large."""

import asyncio
import json
from typing import Any

import pytest

from deployments.http.server.bodies import LARGE_BYTES, Bodies
from deployments.http.server.refusals import BodiesOverBudget
from tests.deployments.http.conftest import HELLO, Served, Serving, until

MIB = 2**20


async def _begin(served: Served, length: int) -> asyncio.StreamWriter:
    """Declares a body, and sends only the beginning of it."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.ingress.port)
    sent = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{sent}"
    writer.write(head.encode() + b'\r\n\r\n{"model":')
    await writer.drain()
    return writer


async def test_past_the_budget_a_body_is_refused_before_it_is_read(serving: Serving) -> None:
    async with serving(max_bodies_bytes=4 * MIB, body_timeout_s=60) as served:
        writers = [await _begin(served, MIB) for _ in range(4)]
        await until(lambda: served.metrics.in_flight == 4)
        refused = await served.chat()
        assert refused.status == 503
        assert refused.json["error"]["code"] == "bodies_over_budget"
        assert int(refused.headers["Retry-After"]) >= 1
        # Who leaves gives back what was his.
        writers.pop().close()
        await until(lambda: served.metrics.in_flight == 3)
        assert (await served.chat()).status == 200
        for writer in writers:
            writer.close()


async def test_a_body_of_unknown_length_counts_as_it_comes(serving: Serving) -> None:
    async def pieces() -> Any:
        for _ in range(64):
            yield b" " * 64 * 1024

    async with serving(max_bodies_bytes=2 * MIB) as served:
        headers = {"Content-Type": "application/json"}
        async with served.client.post(f"{served.url}/v1/chat/completions", data=pieces(), headers=headers) as response:
            assert response.status == 503
        assert (await served.chat()).status == 200


def test_a_room_gives_back_what_it_took() -> None:
    bodies = Bodies(10)
    with bodies.room() as room:
        room.grow_to(8)
        room.grow_to(5)
        assert bodies.bytes == 8
        with pytest.raises(BodiesOverBudget), bodies.room() as other:
            other.grow_to(3)
        room.grow_to(10)
    assert bodies.bytes == 0


async def test_large_bodies_are_parsed_one_at_a_time_and_small_ones_do_not_wait() -> None:
    bodies = Bodies(MIB)
    large = json.dumps({"prompt": list(range(200_000))}).encode()
    assert len(large) > LARGE_BYTES
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    first, second = (asyncio.create_task(bodies.parse(large, 10)) for _ in range(2))
    await asyncio.sleep(0)
    assert await bodies.parse(b'{"a": 1}', 10) == {"a": 1}
    assert not first.done()
    assert len((await first)["prompt"]) == 200_000
    assert not second.done()
    await second
    assert turns > 4
    counting.cancel()


async def test_who_gives_up_while_it_waits_lets_the_others_in() -> None:
    bodies = Bodies(MIB)
    large = json.dumps({"prompt": "x" * LARGE_BYTES}).encode()
    first, second, third = (asyncio.create_task(bodies.parse(large, 10)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    assert len((await asyncio.wait_for(third, 60))["prompt"]) == LARGE_BYTES


async def test_a_large_conversation_is_answered(serving: Serving) -> None:
    async with serving() as served:
        messages = [*HELLO, *({"role": "user", "content": f"message {number}"} for number in range(5000))]
        answer = await served.chat(messages=messages)
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == "message 4999"
