"""Scores by a cross-encoder: what vLLM says of a pair is what transformers says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engines.call_requests import EmbedRequest
from engines.context import Context
from engines.contract import Load
from engines.errors import Cancelled, ContextOverflow, InvalidRequest, Unsupported
from engines.pooling_requests import PoolingRequest, ScoreRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import eventually
from tests.engines.vllm.booted import booted
from tests.engines.vllm.tiny_cross_encoder import CONTEXT_LENGTH, make
from tests.turns import no_turn_is_longer

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = "what is a river"
DOCUMENTS = ["a river is water and turns a wheel.", "the cat and the dog", "bread", "a mill"]
LONG = "the cat and the dog " * 30
Reference = Callable[..., list[float]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("tiny-cross-encoder")
    make(folder)
    return folder


@pytest.fixture(scope="module")
def reference(model: Path) -> Reference:
    """The logits that transformers gives for pairs."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model).eval()

    def logits(pairs: list[tuple[str, str]], **kwargs: Any) -> list[float]:
        queries, documents = zip(*pairs, strict=True)
        encoded = tokenizer(list(queries), list(documents), return_tensors="pt", padding=True, **kwargs)
        with torch.no_grad():
            made: list[float] = network(**encoded).logits[:, 0].tolist()
        return made

    return logits


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(model: Path) -> AsyncIterator[VllmEngine]:
    options = {"model": str(model), "dtype": "float32", "enforce_eager": True, "kv_cache_bytes": 64 * 2**20}
    async with booted("cross-0", **options) as engine:
        yield engine


def asking(documents: list[str] = DOCUMENTS, queries: list[str] | None = None, **fields: Any) -> ScoreRequest:
    return ScoreRequest(model="demo", queries=queries or [QUERY], documents=documents, **fields)


async def test_scores_are_those_of_transformers(engine: VllmEngine, reference: Reference) -> None:
    expected = reference([(QUERY, document) for document in DOCUMENTS])
    assert max(expected) - min(expected) > 0.1, "else any order would do"
    logits = await engine.score(asking(use_activation=False))
    assert logits.floats == pytest.approx(expected, abs=1e-3)
    assert logits.engine == "cross-0" and logits.prompt_tokens > len(DOCUMENTS) * 4
    import torch

    assert (await engine.score(asking())).floats == pytest.approx(torch.tensor(expected).sigmoid().tolist(), abs=1e-3)


async def test_each_document_has_a_query_of_its_own(engine: VllmEngine, reference: Reference) -> None:
    queries = ["the cat", "bread", "water", QUERY]
    expected = reference(list(zip(queries, DOCUMENTS, strict=True)))
    assert (await engine.score(asking(queries=queries, use_activation=False))).floats == pytest.approx(
        expected, abs=1e-3
    )


async def test_what_is_too_long_is_refused_by_its_name_or_cut(engine: VllmEngine, reference: Reference) -> None:
    # Once by its tokens, and once by its characters, before anything looks at them.
    for text in ("the cat " * 40, "x" * 10_000_000):
        with pytest.raises(ContextOverflow) as refused:
            await engine.score(asking(["short", text]))
        assert refused.value.param == "documents[1]"
    for kept in (CONTEXT_LENGTH, 12):
        cut = await engine.score(asking([LONG], use_activation=False, truncate_prompt_tokens=kept))
        expected = reference([(QUERY, LONG)], truncation=True, max_length=kept)
        assert cut.floats == pytest.approx(expected, abs=1e-3)
        assert cut.prompt_tokens == kept
    limited = await engine.score(asking([LONG], use_activation=False, max_tokens_per_doc=3))
    assert limited.floats == pytest.approx(reference([(QUERY, "the cat and")]), abs=1e-3)
    limited = await engine.score(asking(["bread"], [LONG], use_activation=False, max_tokens_per_query=3))
    assert limited.floats == pytest.approx(reference([("the cat and", "bread")]), abs=1e-3)


async def test_text_past_what_fits_makes_no_lists(engine: VllmEngine) -> None:
    huge = "cat " * 2_000_000
    for fields in ({"truncate_prompt_tokens": 20, "truncation_side": "left"}, {"max_tokens_per_doc": 5}):
        made = await no_turn_is_longer(
            lambda fields=fields: engine.score(asking([huge], **fields)),  # type: ignore[misc]
            0.25,
        )
        assert made.prompt_tokens <= 20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncate_prompt_tokens": CONTEXT_LENGTH + 1}, "truncate_prompt_tokens"),
        ({"max_tokens_per_query": CONTEXT_LENGTH}, "max_tokens_per_query"),
        ({"max_tokens_per_doc": CONTEXT_LENGTH}, "max_tokens_per_doc"),
        ({"instruction": "be kind"}, "instruction"),
    ],
)
async def test_what_the_model_cannot_do_is_named(engine: VllmEngine, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await engine.score(asking(**fields))
    assert refused.value.param == param


async def test_it_pools_what_it_is_for(engine: VllmEngine) -> None:
    pooled = await engine.pooling(PoolingRequest(model="demo", inputs=["the cat", "a river"]))
    assert (pooled.rows, pooled.columns, pooled.per_token) == ([1, 1], 1, False)
    assert (await engine.pooling(PoolingRequest(model="demo", inputs=["the cat"], task="classify"))).rows == [1]
    with pytest.raises(Unsupported) as refused:
        await engine.pooling(PoolingRequest(model="demo", inputs=["the cat"], task="embed"))
    assert refused.value.param == "task"
    with pytest.raises(ContextOverflow) as overflow:
        await engine.pooling(PoolingRequest(model="demo", inputs=["the cat", LONG]))
    assert overflow.value.param == "inputs[1]"
    assert engine.capabilities.score and engine.capabilities.pooling and not engine.capabilities.embed
    with pytest.raises(Unsupported):
        await engine.embed(EmbedRequest(model="demo", inputs=["the cat"]))


async def test_many_documents_leave_the_event_loop_its_turns(engine: VllmEngine) -> None:
    many = asking(["the cat"] * 1000)
    assert len(await no_turn_is_longer(lambda: engine.score(many), 0.25)) == 1000


async def test_stop_gives_up(engine: VllmEngine) -> None:
    context = Context()
    task = asyncio.create_task(engine.score(asking(["the cat and the dog " * 8] * 2000), context))
    await eventually(lambda: engine.load().running > 0)
    context.stop()
    with pytest.raises(Cancelled):
        await task
    await eventually(lambda: engine.load() == Load())
    assert len(await engine.score(asking(["a"]))) == 1
