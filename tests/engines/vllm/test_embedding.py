"""Embeddings by a pooling model: here the demo model, converted."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from engines.call_requests import EmbedRequest, TokenizeRequest
from engines.context import Context
from engines.contract import Load
from engines.errors import AdapterFailed, Cancelled, ContextOverflow, InvalidRequest, Unsupported
from engines.pooling_requests import PoolingRequest, ScoreRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import Recorder, counting, eventually
from tests.engines.vllm.booted import booted
from tests.engines.vllm.tiny_adapters import adapter
from tests.turns import no_turn_is_longer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = [adapter(folder, "one", seed=1), adapter(folder, "two", seed=2), adapter(folder, "torn", inputs=64)]
    options = {"model": "demo", "runner": "pooling", "convert": "embed", "max_model_len": 512, "enforce_eager": True}
    async with booted("pooling-0", adapters, kv_cache_bytes=64 * 2**20, **options) as engine:
        yield engine


def request(*inputs: str | list[int], **fields: Any) -> EmbedRequest:
    return EmbedRequest.model_validate({"model": "demo", "inputs": inputs} | fields)


async def embed(engine: VllmEngine, request: EmbedRequest) -> list[tuple[float, ...]]:
    made = await engine.embed(request, Context())
    return [made.floats(index) for index in range(len(made))]


async def test_texts_and_ids_say_the_same(engine: VllmEngine) -> None:
    ids = (await engine.tokenize(TokenizeRequest(model="demo", prompt="the cat"))).token_ids
    made = await engine.embed(request("the cat", "the dog"), Context())
    (by_ids,) = await embed(engine, request(ids))
    assert made.engine == "pooling-0"
    assert made.prompt_tokens == 2 * len(ids)
    assert (len(made), made.dimension) == (2, 128)
    assert by_ids == pytest.approx(made.floats(0), abs=1e-2)
    assert made.floats(0) != pytest.approx(made.floats(1), abs=1e-2)
    assert math.hypot(*by_ids) == pytest.approx(1.0, abs=1e-2)


async def test_each_adapter_makes_its_own_vectors_whoever_shares_its_steps(engine: VllmEngine) -> None:
    texts = [f"the cat and the dog {number}" for number in range(4)]
    asked = [request(*texts, adapter=name) for name in (None, "one", "two")]
    alone = [await embed(engine, one) for one in asked]
    together = await asyncio.gather(*(embed(engine, one) for one in asked))
    for vectors, again in zip(alone, together, strict=True):
        assert again == [pytest.approx(vector, abs=5e-2) for vector in vectors]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert alone[first][0] != pytest.approx(alone[second][0], abs=0.1)
    with pytest.raises(AdapterFailed, match="'torn' cannot be loaded"):
        await embed(engine, request("x", adapter="torn"))
    assert await embed(engine, request(texts[0])) == [pytest.approx(alone[0][0], abs=5e-2)]


async def test_its_steps_show_that_it_works(engine: VllmEngine) -> None:
    before = engine.steps
    await embed(engine, request(*(["the cat and the dog " * 50] * 64)))
    assert engine.steps > before + 1


async def test_order_is_that_of_the_inputs(engine: VllmEngine) -> None:
    texts = [f"count from {number} to {number + 1}" for number in range(20)]
    alone = [(await embed(engine, request(text)))[0] for text in texts[::7]]
    assert (await embed(engine, request(*texts)))[::7] == [pytest.approx(vector, abs=5e-2) for vector in alone]


async def test_too_long_is_refused_or_cut(engine: VllmEngine) -> None:
    long = "the cat and the dog " * 200
    with pytest.raises(ContextOverflow) as refused:
        await embed(engine, request("short", long))
    assert refused.value.param == "inputs[1]"
    cut = await engine.embed(request(long, truncate_prompt_tokens=-1), Context())
    assert cut.prompt_tokens == 512
    cut = await engine.embed(request(long, truncate_prompt_tokens=10), Context())
    assert cut.prompt_tokens == 10


async def test_dimensions_that_the_model_does_not_have_are_refused(engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await embed(engine, request("the cat", dimensions=7))
    assert refused.value.param == "dimensions"


async def test_stop_gives_up(engine: VllmEngine) -> None:
    context = Context()
    task = asyncio.create_task(engine.embed(request(*(["the cat and the dog " * 50] * 500)), context))
    await eventually(lambda: engine.load().running > 0)
    context.stop()
    with pytest.raises(Cancelled):
        await task
    await eventually(lambda: engine.load() == Load(adapters=engine.load().adapters))
    assert len((await embed(engine, request("the cat")))[0]) == 128


async def test_generates_nothing(engine: VllmEngine) -> None:
    assert engine.capabilities.embed
    assert not engine.capabilities.generate
    with pytest.raises(Unsupported):
        await engine.submit(counting(1, 5), Context(), Recorder())


async def test_its_own_length_may_be_asked_for(engine: VllmEngine) -> None:
    assert len((await embed(engine, request("the cat", dimensions=128)))[0]) == 128


async def test_what_is_refused_says_nothing_of_where_the_model_lies(engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await embed(engine, request("the cat", dimensions=7))
    assert "/" not in refused.value.message
    assert "128" in refused.value.message


async def test_many_inputs_leave_the_event_loop_its_turns(engine: VllmEngine) -> None:
    inputs = request(*["the cat"] * 1000)
    assert len(await no_turn_is_longer(lambda: engine.embed(inputs, Context()), 0.25)) == 1000


async def test_a_bi_encoders_score_is_the_cosine(engine: VllmEngine) -> None:
    query, *documents = texts = ["the cat", "the dog", "count from 1 to 5", "the cat"]
    vectors = await embed(engine, request(*texts))
    scores = await engine.score(ScoreRequest(model="demo", queries=[query], documents=documents))
    cosines = [sum(a * b for a, b in zip(vectors[0], vector, strict=True)) for vector in vectors[1:]]
    assert scores.floats == pytest.approx(cosines, abs=2e-2)
    with pytest.raises(ContextOverflow) as refused:
        await engine.score(ScoreRequest(model="demo", queries=["a", "the cat " * 600], documents=["b", "c"]))
    assert refused.value.param == "queries[1]"


async def test_pooling_gives_the_same_vectors(engine: VllmEngine) -> None:
    (vector,) = await embed(engine, request("the cat"))
    pooled = await engine.pooling(PoolingRequest(model="demo", inputs=["the cat"]))
    assert (pooled.rows, pooled.columns, pooled.per_token) == ([1], 128, False)
    (packed,) = pooled.packed()
    assert next(iter(pooled.floats(packed))) == pytest.approx(vector, abs=1e-2)
    with pytest.raises(Unsupported):
        await engine.pooling(PoolingRequest(model="demo", inputs=["the cat"], task="token_embed"))


async def test_a_model_of_tokens_pools_each_of_them_and_scores_by_the_nearest() -> None:
    """And vectors are shortened where the model says that they can be."""
    from vllm.config import PoolerConfig

    options = {"model": "demo", "runner": "pooling", "convert": "embed", "max_model_len": 64, "enforce_eager": True}
    tokens = PoolerConfig(task="token_embed")
    shorter = {"engine_args": {"hf_overrides": {"is_matryoshka": True}, "pooler_config": tokens}}
    async with booted("pooling-1", kv_cache_bytes=64 * 2**20, **options, **shorter) as engine:
        whole, short = [(await embed(engine, request("the cat", **fields)))[0] for fields in ({}, {"dimensions": 16})]
        assert (len(whole), len(short)) == (128, 16)
        assert math.hypot(*short) == pytest.approx(1.0, abs=1e-2)
        scale = math.hypot(*whole[:16])
        assert short == pytest.approx([value / scale for value in whole[:16]], abs=2e-2)
        with pytest.raises(InvalidRequest, match="1 to 128 dimensions"):
            await embed(engine, request("the cat", dimensions=129))

        texts = ["the cat", "count from 1 to 5"]
        pooled = await engine.pooling(PoolingRequest(model="demo", inputs=texts))
        ids = [(await engine.tokenize(TokenizeRequest(model="demo", prompt=text))).token_ids for text in texts]
        assert (pooled.rows, pooled.columns, pooled.per_token) == ([len(ids[0]), len(ids[1])], 128, True)
        query, document = (list(pooled.floats(packed)) for packed in pooled.packed())
        nearest = sum(max(sum(a * b for a, b in zip(q, d, strict=True)) for d in document) for q in query)
        scores = await engine.score(ScoreRequest(model="demo", queries=texts[:1], documents=[texts[1], texts[0]]))
        assert scores.floats == pytest.approx([nearest, len(query)], abs=5e-2)
