"""Tenants of a whole fleet: callers of the Serve handle name theirs, and its budget holds over all routers."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import ray

from actors.directory.client import NAME
from deployments.fleet_settings import FleetSettings
from deployments.handle import FleetHandle
from engines.errors import Forbidden, ModelNotFound, PenstockError, RateLimited
from engines.requests import GenerateRequest
from tests.deployments.tenants.key_files import key_file
from tests.deployments.waiting import until

ROUTERS = 4
COST = 100
LIMIT = 100 * COST


@pytest.fixture(scope="module")
def handle(deploy: Callable[[FleetSettings], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("tenants") / "keys.yaml"
    file.write_text(
        key_file(small={"max_n": 1}, other={"models": ["another"]}, limited={"tokens_per_minute": LIMIT, "max_n": 1})
    )
    return deploy(
        FleetSettings.model_validate(
            {
                "name": "tenants",
                "http": {"port": 0, "keys": {"file": str(file)}},
                "router": {"replicas": ROUTERS, "cpus": 0.1},
                "models": [{"name": "m", "engine": "simulated", "cpus": 0.1, "options": {"speed": "instant"}}],
            }
        )
    )


def asking(n: int = 1) -> GenerateRequest:
    """A request that costs exactly `COST` tokens."""
    sampling = {"n": n, "max_tokens": COST // 5, "ignore_eos": True}
    return GenerateRequest(model="m", prompt_token_ids=[97] * (COST - COST // 5), sampling=sampling)


async def test_a_caller_of_the_handle_is_held_to_the_tenant_that_it_names(handle: Any) -> None:
    assert len((await FleetHandle(handle).complete(asking(n=2))).choices) == 2
    small = FleetHandle(handle, tenant="small")
    assert (await small.complete(asking())).usage.completion_tokens == COST // 5
    with pytest.raises(Forbidden, match="n: it is at most 1"):
        await small.complete(asking(n=2))
    with pytest.raises(ModelNotFound):
        await FleetHandle(handle, tenant="other").complete(asking())
    with pytest.raises(Forbidden, match="tenant: nobody who holds a key is called 'nobody'"):
        await FleetHandle(handle, tenant="nobody").complete(asking())


async def test_five_hundred_at_once_never_overspend_while_routers_and_the_directory_die(handle: Any) -> None:
    fleet = FleetHandle(handle, tenant="limited")
    began_s = time.monotonic()
    ends = Counter[str]()

    async def ask() -> None:
        try:
            ends[f"{(await fleet.complete(asking())).usage.completion_tokens} tokens"] += 1
        except PenstockError as error:
            ends[type(error).__name__] += 1

    first = asyncio.gather(*(ask() for _ in range(250)))
    await until(lambda: _has(ends, 20))
    os.kill((await handle.process.remote())[1], signal.SIGKILL)
    ray.kill(ray.get_actor(NAME, namespace="tenants"), no_restart=False)
    os.kill((await handle.process.remote())[1], signal.SIGKILL)
    await asyncio.gather(first, *(ask() for _ in range(250)))
    took_s = time.monotonic() - began_s
    got = ends[f"{COST // 5} tokens"]
    assert sum(ends.values()) == 500
    assert got <= LIMIT // COST * (1 + took_s // 60)
    # What was borrowed by those that were killed is lost for a minute, and no more than that.
    assert got >= LIMIT // COST // 2, ends
    assert ends[RateLimited.__name__] > 0


async def _has(ends: Counter[str], most: int) -> bool:
    return sum(ends.values()) >= most
