"""vLLM's sleep, on the CPU: the core pauses, its caches are emptied, and the workers keep what they have."""

import asyncio
from typing import Any

import pytest

from actors.instance.sleeper import Sleeper
from actors.settings import SleepSettings
from engines.completion import collect
from engines.context import Context
from engines.errors import EngineDead, EngineFailed, InvalidRequest
from engines.registry import EngineSpec
from engines.vllm.engine import VllmEngine
from engines.vllm.options import VllmOptions
from tests.deployments.waiting import until
from tests.engines.vllm.asking import chat, counting
from tests.lazily import lazily, needs

needs("vllm", "its sleep is what this is about")

arguments = lazily("engines.vllm.arguments")
sleep = lazily("engines.vllm.sleep")

HEARTBEAT_S = 0.05


class Llm:
    """What a sleep asks of `AsyncLLM`, in order."""

    def __init__(self, **fails: Exception) -> None:
        self.asked: list[Any] = []
        self.fails = fails
        self.is_awake = True

    async def sleep(self, level: int, mode: str) -> None:
        await self._asked("sleep", level, mode)

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        await self._asked("wake_up", tags)
        return self.is_awake and tags != ["weights"]

    async def collective_rpc(self, method: str) -> None:
        await self._asked(method)

    async def _asked(self, *what: Any) -> None:
        self.asked.append(what)
        if what[0] in self.fails:
            raise self.fails[what[0]]


@pytest.mark.parametrize(
    ("level", "waking"),
    [
        (1, [("wake_up", None)]),
        (2, [("wake_up", ["weights"]), ("reload_weights",), ("wake_up", ["kv_cache"])]),
    ],
)
async def test_a_level_wakes_as_vllm_documents_it(level: int, waking: list[Any]) -> None:
    llm, forgot = Llm(), []
    sleeping = sleep.Sleep(llm, lambda: forgot.append(True))
    await sleeping.begin(level)
    assert (llm.asked, forgot) == ([("sleep", level, "wait")], [True])
    await sleeping.end()
    assert llm.asked[1:] == waking


async def test_what_vllm_raises_or_leaves_asleep_is_said() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    with pytest.raises(EngineDead):
        await sleep.Sleep(Llm(sleep=EngineDeadError()), lambda: None).begin(1)
    failing = sleep.Sleep(Llm(reload_weights=ValueError("no such file")), lambda: None)
    await failing.begin(2)
    with pytest.raises(EngineFailed, match="could not wake: ValueError: no such file"):
        await failing.end()
    llm = Llm()
    llm.is_awake = False
    with pytest.raises(EngineFailed, match="stayed asleep"):
        await sleep.Sleep(llm, lambda: None).end()


def test_sleep_mode_is_asked_for_where_the_platform_has_it_and_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    spec = EngineSpec(kind="vllm", model="m", sleeps=True)
    assert not arguments.spec_args(spec, VllmOptions()).enable_sleep_mode  # The CPU refuses it.
    monkeypatch.setattr(type(current_platform), "is_sleep_mode_available", lambda _: True)
    assert arguments.spec_args(spec, VllmOptions()).enable_sleep_mode
    assert not arguments.spec_args(EngineSpec(kind="vllm", model="m"), VllmOptions()).enable_sleep_mode
    with pytest.raises(InvalidRequest, match="give the model its `sleep`"):
        arguments.engine_args(VllmOptions(engine_args={"enable_sleep_mode": True}), 1)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("level", [1, 2])
async def test_it_says_the_same_after_its_sleep_and_has_nothing_cached(vllm_engine: VllmEngine, level: int) -> None:
    # Longer than a block, which has 128 tokens on the CPU.
    request = chat("count from 1 to 9 " * 60, sampling={"max_tokens": 20})
    before = (await collect(vllm_engine.generate(request, Context()))).choices[0].token_ids
    cached = (await collect(vllm_engine.generate(request, Context()))).usage.cached_tokens
    chunks = vllm_engine.cached_chunks
    assert cached and chunks is not None
    await until(lambda: chunks.blocks)
    await vllm_engine.sleep(level)
    try:
        assert not chunks.blocks
        await vllm_engine.check_health()
        assert vllm_engine.ready
    finally:
        await vllm_engine.wake()  # Others share it.
    after = await collect(vllm_engine.generate(request, Context()))
    assert (after.choices[0].token_ids, after.usage.cached_tokens) == (before, 0)
    # What the core said late of before is not taken for what it has now.
    assert (await collect(vllm_engine.generate(request, Context()))).usage.cached_tokens == cached
    await until(lambda: chunks.blocks)


@pytest.mark.asyncio(loop_scope="session")
async def test_fifty_requests_at_once_wake_it(vllm_engine: VllmEngine) -> None:
    died: list[EngineDead] = []
    sleeper = Sleeper(SleepSettings(after_s=HEARTBEAT_S), HEARTBEAT_S, lambda: None, died.append)
    sleeper.around(vllm_engine)
    for _ in range(3):
        await until(lambda: not vllm_engine.load().running + vllm_engine.load().queued)
        sleeper.tick(may_sleep=True)
        assert not sleeper.is_awake
        # In the middle of falling asleep, and the rest a moment later.
        asked = [asyncio.create_task(collect(sleeper.generate(counting(1, 9), Context()))) for _ in range(25)]
        await asyncio.sleep(0)
        asked += [asyncio.create_task(collect(sleeper.generate(counting(1, 9), Context()))) for _ in range(25)]
        answers = {completion.text for completion in await asyncio.gather(*asked)}
        assert len(answers) == 1 and "9" in answers.pop()
        assert sleeper.is_awake and not died
