"""Whatever one client sends, no turn of the event loop is long: everybody's streams are on it."""

import asyncio
import pickle
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.channel.instance_end import _unpickled
from deployments.http.openai.chat_body import ChatBody, parse_chat
from deployments.http.openai.completion_body import parse_completion
from deployments.http.openai.generation_body import parse_generation
from deployments.http.server.hints import DispatchHints
from deployments.http.server.json_guard import parse_object
from engines.errors import InvalidRequest
from engines.garbage import CollectorPaused
from engines.registry import EngineSpec
from engines.simulated.engine import SimulatedEngine
from engines.simulated.options import SimulatedOptions
from tests.benchmarks.pauses import CONTEXT, Case, cases
from tests.deployments.http.conftest import Served, serving_one, until
from tests.turns import TRIES, no_turn_is_longer, slowness

BOUND_S = 0.1
CASES = {case.name: case for case in cases("demo", "demo") if case.path and case.reads}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    options = {"context_length": CONTEXT, "num_blocks": 100_000, "embedding_size": 1024, "speed": "instant"}
    engine = SimulatedEngine(
        "demo-0", EngineSpec(kind="simulated", model="demo"), SimulatedOptions.model_validate(options)
    )
    async with serving_one(engines=[engine]) as served:
        yield served


async def ask(served: Served, case: Case) -> int:
    headers = {"Content-Type": "application/json"}
    async with served.client.post(served.url + case.path, data=case.body, headers=headers) as response:
        while await response.content.readany():
            pass
        return response.status


@pytest.mark.parametrize("name", CASES)
async def test_no_turn_is_long(served: Served, name: str) -> None:
    async def asked() -> list[int]:
        return await asyncio.gather(*(ask(served, CASES[name]) for _ in range(2)))

    statuses = await no_turn_is_longer(asked, BOUND_S)
    assert set(statuses) <= {200, 400, 413}
    await served.still_serves()


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"temperature": 9}], ids=str)
async def test_what_was_sent_is_freed_with_its_answer_without_the_collector(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[weakref.ref[ChatBody]] = []

    def parse(model: type[ChatBody], data: Any) -> ChatBody:
        body = parse_generation(model, data)
        sent.append(weakref.ref(body))
        return body

    monkeypatch.setattr("deployments.http.openai.chat_body.parse_generation", parse)
    async with serving_one() as served:
        with CollectorPaused():
            await served.chat(**fields)
            await until(lambda: sent[0]() is None)


@pytest.mark.parametrize(
    "name",
    [case.name for case in CASES.values() if "chat" in case.path or case.path == "/v1/completions"],
)
def test_going_up_is_short(name: str) -> None:
    """A request is pickled in one turn of the router and read in one turn of the actor."""
    case = CASES[name]
    parse = parse_chat if "chat" in case.path else parse_completion
    try:
        _, request = parse(parse_object(case.body, 100), DispatchHints())
    except InvalidRequest:
        pytest.skip("it is refused")
    longest_s = []
    for _ in range(TRIES):
        began_s = time.thread_time()
        data = pickle.dumps(request, 5)
        pickled_s = time.thread_time() - began_s
        began_s = time.thread_time()
        _unpickled(data)
        longest_s.append(max(pickled_s, time.thread_time() - began_s))
    assert min(longest_s) < BOUND_S * slowness()
