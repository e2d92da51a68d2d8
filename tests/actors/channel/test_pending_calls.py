import asyncio

import pytest
import ray

from engines.call_requests import EmbedRequest
from engines.context import Context
from engines.errors import Cancelled, InstanceLost
from engines.registry import EngineSpec
from tests.actors.conftest import Start
from tests.actors.listening import Heard


async def test_an_embedding_ends_when_it_is_cancelled_and_when_its_instance_dies(start: Start) -> None:
    heard = Heard()
    # A step takes a minute.
    engine = EngineSpec(kind="simulated", model="m", options={"speed": 0.0001})
    instance, egress = await start([], listener=heard, engine=engine)
    embed = EmbedRequest(model="m", inputs=["a"])
    context = Context()
    cancelled = asyncio.ensure_future(egress.embed(embed, context))
    lost = asyncio.ensure_future(egress.embed(embed, Context()))
    await asyncio.wait([cancelled, lost], timeout=0.2)
    context.kill()
    with pytest.raises(Cancelled):
        await cancelled
    ray.kill(instance.actor)
    with pytest.raises(InstanceLost):
        await lost
    assert [suspects for _, suspects in heard.losses] == [[embed]]
