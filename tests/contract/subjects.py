"""The engines that the contract suite runs against: one line each.

A subject must be able to count: "count from 3 to 7" is answered with "3 4 5 6 7", whoever counts. What else it can do
it says in its capabilities; tests that need more are skipped for it.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from deployments.local_fleet import LocalFleet
from deployments.routing.route import Route
from engines.adapters.adapter import Adapter
from engines.contract import Engine
from engines.operators.breaker import Breaker
from engines.operators.fallback import Fallback
from engines.operators.link import link
from engines.operators.migration import Migration
from engines.operators.operator import Operator
from engines.operators.pool import Pool, PoolMember
from engines.operators.recovery import Recovery
from engines.operators.retry import Retry
from engines.operators.timeout import TimeoutOptions, Timeouts
from engines.operators.trace import Trace
from engines.registry import EngineSpec, make_engine
from engines.scripted.engine import ScriptedEngine
from tests.contract.asking import started
from tests.contract.fleet import fleet
from tests.contract.played_model import CAPABILITIES, play
from tests.contract.remotes import (
    anthropic_over_vllm,
    azure_over_penstock,
    bedrock,
    openai_over_penstock,
    openai_over_vllm,
)
from tests.engines.vllm.booted import demo_engine


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test.

    Attributes:
        name: What the test reports call it.
        open: Starts it, and stops it on the way out; once per session, when the first test asks for it.
        model: The model's name in requests.
        names: The names that may be under its answers: its own, or, for a fleet, those of its instances.
        is_foreign: Another project's server answers.
        speaks_foreign_api: It asks in an API that has no place for some of our fields, whoever answers.
        fixtures: Names of the session's fixtures that it needs; `open` is called with their values.
    """

    name: str
    open: Callable[..., AbstractAsyncContextManager[Engine]]
    model: str = "model"
    names: Callable[[Engine], Collection[str]] = lambda engine: (engine.name,)
    is_foreign: bool = False
    speaks_foreign_api: bool = False
    fixtures: Sequence[str] = ()


def simulated(**options: object) -> AbstractAsyncContextManager[Engine]:
    return started(make_engine("simulated-0", EngineSpec(kind="simulated", model="model", options=options)))


def simulated_engine(name: str) -> Engine:
    return make_engine(name, EngineSpec(kind="simulated", model="model", options={"speed": "instant"}))


def pipeline() -> AbstractAsyncContextManager[Engine]:
    patient = TimeoutOptions(first_event_s=600.0, between_events_s=600.0, total_s=600.0)
    traced = Trace(None, TracerProvider(), MeterProvider())
    inner = link(Timeouts(patient), Breaker(), Migration(), simulated_engine("simulated-0"))
    return started(link(traced, Recovery(), Retry(), inner))


@asynccontextmanager
async def adapter() -> AsyncIterator[Engine]:
    spec = EngineSpec(
        kind="simulated",
        model="base",
        options={"speed": 20},
        adapters=(Adapter(name="model", path="org/model"),),
    )
    fleet = LocalFleet({"base": [make_engine("simulated-0", spec)]}, adapters={"model": "base"})
    await fleet.start()
    try:
        yield fleet.find("model").engine
    finally:
        await fleet.stop()


def pool() -> AbstractAsyncContextManager[Engine]:
    members = [PoolMember(simulated_engine(f"simulated-{number}")) for number in range(2)]
    return started(Fallback("fallback", [Pool("pool", members)]))


def scripted() -> AbstractAsyncContextManager[Engine]:
    return started(ScriptedEngine("scripted-0", script=play, capabilities=CAPABILITIES))


def instance_ids(engine: Engine) -> Collection[str]:
    while isinstance(engine, Operator):
        engine = engine.inner
    assert isinstance(engine, Route)
    return [instance.id for instance in engine.instances()]


SUBJECTS = (
    Subject("simulated", lambda: simulated(speed=20)),
    Subject("simulated-instant", lambda: simulated(speed="instant")),
    Subject(
        "simulated-short-of-memory",
        lambda: simulated(speed="instant", context_length=1024, num_blocks=70, max_num_seqs=24, max_batched_tokens=48),
    ),
    Subject("scripted", scripted),
    Subject("pipeline", pipeline),
    Subject("pool", pool, names=lambda engine: ("simulated-0", "simulated-1")),
    Subject("adapter", adapter, names=instance_ids),
    Subject("openai-remote", openai_over_penstock),
    Subject("azure", azure_over_penstock, speaks_foreign_api=True),
    Subject("vllm", demo_engine, model="demo"),
    Subject("vllm-server", openai_over_vllm, model="demo", is_foreign=True, fixtures=["vllm_api_server"]),
    Subject("vllm-server-messages", anthropic_over_vllm, model="demo", is_foreign=True, fixtures=["vllm_api_server"]),
    Subject("bedrock", bedrock, model="demo", is_foreign=True, fixtures=["vllm_api_server"]),
    Subject("fleet", lambda _: fleet(), names=instance_ids, fixtures=["serve_cluster"]),
)
