"""LoRA adapters on real vLLM: each answers as itself, whoever is beside it, and what is wrong with one is its own."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engines.completion import Completion
from engines.context import Context
from engines.contract import Load, Progress
from engines.errors import AdapterFailed, PenstockError
from engines.events import Started, TextDelta
from engines.requests import GenerateRequest, Resume
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import (
    Recorder,
    ask,
    chat,
    counted,
    counting,
    eventually,
    ids_of,
    listen,
    still_serves,
)
from tests.engines.vllm.booted import demo_engine
from tests.engines.vllm.tiny_adapters import adapter
from tests.lazily import needs

needs("vllm", "it loads them")
pytestmark = pytest.mark.asyncio(loop_scope="module")

LOADED = 2
GOOD = ("one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(folder: Path) -> AsyncIterator[VllmEngine]:
    adapters = [adapter(folder, name, seed=seed) for seed, name in enumerate(GOOD)]
    adapters += [
        adapter(folder, "wide", inputs=256),
        adapter(folder, "narrow", inputs=64),
        adapter(folder, "short", outputs=128),
        adapter(folder, "high", rank=64),
        adapter(folder, "lying", rank=64, config={"r": 8}),
        adapter(folder, "deep", layers=range(40, 41)),
        adapter(folder, "foreign", modules=("self_attn.z_proj",)),
        adapter(folder, "dora", config={"use_dora": True}),
        adapter(folder, "bare"),
        adapter(folder, "torn"),
        adapter(folder, "gone"),
        adapter(folder, "late", seed=9),
    ]
    (folder / "bare" / "adapter_config.json").unlink()
    (folder / "torn" / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    shutil.rmtree(folder / "gone")
    (folder / "late").rename(folder / "hidden")
    # In float32: who is beside a request must not decide between two tokens that are as likely.
    async with demo_engine(adapters, dtype="float32", max_loras=LOADED) as engine:
        yield engine


def asking(adapter: str | None, text: str = "count from 1 to 30", **sampling: Any) -> GenerateRequest:
    return chat(text, sampling={"max_tokens": 40, "ignore_eos": True} | sampling, adapter=adapter)


async def ids(engine: VllmEngine, adapter: str | None, text: str, **sampling: Any) -> list[int]:
    return ids_of(*await listen(engine, asking(adapter, text, **sampling)))


async def refused(engine: VllmEngine, adapter: str) -> PenstockError:
    with pytest.raises(AdapterFailed) as caught:
        await ask(engine, asking(adapter))
    return caught.value


async def test_whoever_shares_a_step_answers_as_alone(engine: VllmEngine) -> None:
    """vLLM's own kernels for the CPU give the base model's tokens the adapter of the last slot (see `arguments`)."""
    texts = [f"count from {number} to {number + 30}" for number in range(4)]
    asked = [(name, text) for text in texts for name in (None, "one", "two")]
    alone = [await ids(engine, name, text) for name, text in asked]
    together = await asyncio.gather(*(ids(engine, name, text) for name, text in asked))
    assert together == alone
    assert len({tuple(alone[at]) for at in range(3)}) == 3
    base = (await ask(engine, counting(1, 20))).text
    assert base == counted(1, 20)


async def test_says_who_answers_and_what_is_loaded(engine: VllmEngine) -> None:
    events = await listen(engine, asking("one"))
    assert isinstance(events[0], Started) and events[0].model == "one"
    assert (await listen(engine, asking(None)))[0].model == "demo"
    assert "one" in engine.load().adapters
    assert engine.capabilities.max_loras == LOADED


async def test_the_least_recently_used_goes(engine: VllmEngine) -> None:
    for name in GOOD:
        await ask(engine, asking(name, max_tokens=1))
    assert engine.load().adapters == ("three", "two")
    await ask(engine, asking("two", max_tokens=1))
    await ask(engine, asking("one", max_tokens=1))
    assert engine.load().adapters == ("one", "two")


async def test_one_that_comes_again_is_the_same(engine: VllmEngine) -> None:
    before = [await ids(engine, name, "describe Ada") for name in GOOD]
    assert [await ids(engine, name, "describe Ada") for name in GOOD] == before


async def test_prefixes_are_each_adapters_own(engine: VllmEngine) -> None:
    text = "count from 1 to 9 " * 40
    for name in (None, "one", "two"):
        first = await ask(engine, asking(name, text, max_tokens=1))
        again = await ask(engine, asking(name, text, max_tokens=1))
        assert (first.usage.cached_tokens, again.usage.cached_tokens > 0) == (0, True), name


async def test_waits_for_a_place_and_is_known_to_wait(engine: VllmEngine) -> None:
    running = [Context() for _ in range(LOADED)]
    sinks = [Recorder() for _ in running]
    for context, sink, name in zip(running, sinks, ("one", "two"), strict=True):
        await engine.submit(asking(name, max_tokens=3000), context, sink)
    context, waiting = Context(), asyncio.ensure_future(ask(engine, asking("three", max_tokens=2)))
    asked = asyncio.ensure_future(engine.submit(asking("three", max_tokens=2), context, Recorder()))
    await eventually(lambda: engine.progress(context) == Progress(0, scheduled=False))
    assert not waiting.done()
    context.kill()
    with pytest.raises(PenstockError):
        await asked
    running[0].kill()
    assert (await waiting).usage.completion_tokens == 2
    assert engine.load().adapters == ("three", "two")
    assert not sinks[1].ended.is_set()
    running[1].kill()
    await eventually(lambda: engine.load().running == 0)


async def test_many_want_more_than_fit(engine: VllmEngine) -> None:
    texts = [f"count from {number} to {number + 9}" for number in range(4)]
    asked = [(name, text) for text in texts for name in (*GOOD, None)]
    alone = [await ids(engine, name, text) for name, text in asked]
    killed = [Context() for _ in range(2)]
    for context in killed:
        # Leaves in the middle, so that its adapter may be wanted out before the core has heard of it.
        await engine.submit(asking("two", max_tokens=2000), context, Recorder())
    together = [asyncio.ensure_future(ids(engine, name, text)) for name, text in asked]
    await asyncio.sleep(0)
    for context in killed:
        context.kill()
    assert await asyncio.gather(*together) == alone


async def test_a_stream_goes_on_with_its_adapter(engine: VllmEngine) -> None:
    request = asking("one", max_tokens=24)
    events = await listen(engine, request)
    whole = ids_of(*events)
    vocabulary = events[0].vocabulary
    resumed = request.model_copy(update={"resume": Resume(choices=[whole[:10]], vocabulary=vocabulary)})
    assert ids_of(*await listen(engine, resumed)) == whole[10:]


async def test_several_choices(engine: VllmEngine) -> None:
    events = await listen(engine, asking("two", n=3))
    said = [ids_of(*(event for event in events if isinstance(event, TextDelta) and event.index == n)) for n in range(3)]
    assert said == [await ids(engine, "two", "count from 1 to 30")] * 3


async def test_constraints_hold(engine: VllmEngine) -> None:
    sampling = {"guided": {"choice": ["yes", "no"]}, "ignore_eos": False}
    completions: list[Completion] = [await ask(engine, asking(name, **sampling)) for name in GOOD]
    assert {completion.text for completion in completions} <= {"yes", "no"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "its folder does not exist"),
        ("bare", "it has no adapter_config.json"),
        ("high", "its rank is 64, and max_lora_rank 16"),
        ("narrow", "made for another model"),
        ("short", "made for another model"),
        ("deep", "the model has no"),
        ("wide", "cannot be loaded"),
        ("lying", "cannot be loaded"),
        ("foreign", "cannot be loaded"),
        ("dora", "cannot be loaded"),
        ("torn", "cannot be loaded"),
    ],
)
async def test_what_cannot_be_loaded_fails_by_name_and_alone(
    engine: VllmEngine, folder: Path, name: str, why: str
) -> None:
    async def beside() -> Completion:
        return await ask(engine, counting(1, 30))

    running = asyncio.ensure_future(beside())
    error = await refused(engine, name)
    assert error.retryable and error.status == 500
    assert repr(name) in error.public and why in error.public
    assert str(folder) not in error.public
    assert (await running).text == counted(1, 30)
    await still_serves(engine)
    assert name not in engine.load().adapters
    assert (await ids(engine, "one", "describe Ada")) == (await ids(engine, "one", "describe Ada"))


async def test_one_that_nobody_knows_is_refused(engine: VllmEngine) -> None:
    assert "'new'" in (await refused(engine, "new")).public


async def test_one_whose_files_come_later_is_tried_again(
    engine: VllmEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.adapters.residency.FAILED_S", 0.0)
    await refused(engine, "late")
    (folder / "hidden").rename(folder / "late")
    assert (await ask(engine, asking("late", max_tokens=2))).usage.completion_tokens == 2


async def test_what_other_weights_made_of_a_prompt_is_not_found_again(engine: VllmEngine, folder: Path) -> None:
    text = "count from 1 to 9 " * 40
    before = await ids(engine, "three", text)
    for name in ("one", "two"):
        await ask(engine, asking(name, max_tokens=1))
    shutil.rmtree(folder / "three")
    adapter(folder, "three", seed=77)
    replaced = await ask(engine, asking("three", text))
    assert replaced.usage.cached_tokens == 0
    assert list(replaced.choices[0].token_ids) != before


async def test_nothing_is_left_behind(engine: VllmEngine) -> None:
    await eventually(lambda: engine.load() == Load(adapters=engine.load().adapters))
    assert len(engine.load().adapters) <= LOADED
