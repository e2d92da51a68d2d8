"""Scores: how well documents fit a query, by whichever kind of model there is.

A cross-encoder reads query and document together. A bi-encoder makes a vector of each, and the score is their cosine. A
model of late interaction makes one of each token, and the score is the sum, over the query's tokens, of how near the
nearest of the document's is (MaxSim).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from vllm.entrypoints.pooling.scoring.utils import truncate_text_to_tokens
from vllm.entrypoints.pooling.utils import enable_scoring_api
from vllm.pooling_params import PoolingParams
from vllm.tasks import SCORE_TYPE_MAP
from vllm.utils.mistral import is_mistral_tokenizer

from engines.call_requests import FLOAT_BYTES
from engines.context import Context
from engines.errors import EngineFailed, InvalidRequest, Unsupported
from engines.pooling_requests import MAX_POOLED_BYTES, ScoreRequest, Scores
from engines.vllm.cross_encoder import CrossEncoder
from engines.vllm.options import VllmOptions
from engines.vllm.pooler import Pooler, PoolingPrompt, check_truncation, in_groups, packed
from engines.vllm.rendering import Rendering

_LISTWISE = "JinaForRanking"
"""Reads all documents at once, in a way that no other model has."""
_QUERY_TOKENS = 256
"""Of late interaction: so many are held against a document at a time."""


class Scoring:
    """Scores with one model. The texts of a request run side by side.

    Args:
        name: Name of the engine.
        llm: vLLM.
        rendering: Makes prompts.
        pooler: Runs them.
        options: The engine's.
        chat_template: The configured template.
        tasks: What vLLM says that the model can do.
    """

    def __init__(
        self,
        name: str,
        llm: Any,
        rendering: Rendering,
        pooler: Pooler,
        options: VllmOptions,
        chat_template: str | None,
        tasks: Sequence[str],
    ) -> None:
        self._name = name
        self._config = llm.model_config
        self._rendering = rendering
        self._pooler = pooler
        self._tokenizer = llm.renderer.tokenizer
        self._kind = _kind(llm, tasks)
        is_cross = self._kind == "cross-encoder"
        self._cross_encoder = CrossEncoder(llm, options, chat_template) if is_cross else None

    @property
    def can_score(self) -> bool:
        """Whether the model scores at all."""
        return self._kind is not None

    async def score(self, request: ScoreRequest, context: Context) -> Scores:
        """The scores of the documents.

        Raises:
            InvalidRequest: A text is too long, or a field asks for what the model cannot do.
            Cancelled: The context was stopped.
            EngineDead: The engine is finished.
        """
        self._check(request)
        if self._cross_encoder is not None:
            values, tokens = await self._read_together(self._cross_encoder, request, context)
        else:
            queries = await self._prompts(request, "queries", request.queries, request.max_tokens_per_query)
            documents = await self._prompts(request, "documents", request.documents, request.max_tokens_per_doc)
            tokens = _tokens(queries) + _tokens(documents)
            compare = self._cosines if self._kind == "bi-encoder" else self._nearest
            values = await compare(queries, documents, context, request.adapter)
        wrong = torch.nonzero(~torch.isfinite(values))
        if len(wrong):
            raise EngineFailed(f"The model gave no number for documents[{int(wrong[0])}].", instance=self._name)
        return Scores(values=packed(values), prompt_tokens=tokens, engine=self._name)

    def _check(self, request: ScoreRequest) -> None:
        """Raises InvalidRequest for what is wrong whatever the texts are."""
        length = self._config.max_model_len
        check_truncation(request.truncate_prompt_tokens, length)
        for name in ("max_tokens_per_query", "max_tokens_per_doc"):
            if getattr(request, name) >= length:
                raise InvalidRequest(f"{name}: it is less than the model's context of {length} tokens.", param=name)
        reads_instructions = self._cross_encoder is not None and self._cross_encoder.reads_instructions
        if request.instruction is not None and not reads_instructions:
            raise Unsupported("instruction: no template of this model reads one.", param="instruction")

    async def _read_together(
        self, cross_encoder: CrossEncoder, request: ScoreRequest, context: Context
    ) -> tuple[torch.Tensor, int]:
        async def prompt(place: int, pair: tuple[str, str]) -> PoolingPrompt:
            return await cross_encoder.prompt(request, place, *pair)

        prompts = await in_groups(list(request.pairs), prompt)
        values = await self._pooler.run(prompts, _as_it_is, context, request.adapter)
        return torch.cat([value.reshape(-1)[:1].float() for value in values]), _tokens(prompts)

    async def _prompts(
        self, request: ScoreRequest, name: str, texts: Sequence[str], most_tokens: int
    ) -> list[PoolingPrompt]:
        task = "embed" if self._kind == "bi-encoder" else "token_embed"
        params = PoolingParams(task=task, use_activation=request.use_activation)

        async def prompt(place: int, text: str) -> PoolingPrompt:
            param = f"{name}[{place}]"
            if most_tokens:
                text = await asyncio.to_thread(self._first_tokens, text, most_tokens)
            rendered = await self._rendering.pooling_input(
                text,
                param,
                request.truncate_prompt_tokens,
                request.truncation_side,
                cache_salt=request.cache_salt,
            )
            return PoolingPrompt(rendered.engine_input, rendered.token_ids, params, param)

        return await in_groups(texts, prompt)

    def _first_tokens(self, text: str, most: int) -> str:
        # One more, so that there are too many where there are. Of a whole text vLLM would make lists of all tokens.
        text = text[: (most + 1) * self._tokenizer.max_chars_per_token]
        return str(truncate_text_to_tokens(text, self._tokenizer, most))

    async def _cosines(
        self,
        queries: Sequence[PoolingPrompt],
        documents: Sequence[PoolingPrompt],
        context: Context,
        adapter: str | None,
    ) -> torch.Tensor:
        vectors = await self._pooler.run([*queries, *documents], _as_it_is, context, adapter)

        def compare() -> torch.Tensor:
            table = torch.stack(vectors).float()
            return torch.nn.functional.cosine_similarity(table[: len(queries)], table[len(queries) :], dim=-1)

        return await asyncio.to_thread(compare)

    async def _nearest(
        self,
        queries: Sequence[PoolingPrompt],
        documents: Sequence[PoolingPrompt],
        context: Context,
        adapter: str | None,
    ) -> torch.Tensor:
        size = FLOAT_BYTES * int(self._config.embedding_size)
        if _tokens(queries) * size > MAX_POOLED_BYTES:
            raise InvalidRequest(
                f"queries: they have {_tokens(queries)} tokens, whose vectors would be over {MAX_POOLED_BYTES} bytes.",
                param="queries",
            )
        asked = await self._pooler.run(queries, _as_it_is, context, adapter)
        found: list[float] = []
        # The vectors of all tokens of all documents would take too much memory at a time.
        for begin, end in _groups([len(document.token_ids) * size for document in documents]):

            async def best(place: int, said: torch.Tensor, begin: int = begin) -> float:
                query = asked[0] if len(asked) == 1 else asked[begin + place]
                return await asyncio.to_thread(_max_sim, query, said)

            found += await self._pooler.run(documents[begin:end], best, context, adapter)
        return torch.tensor(found)


def _kind(llm: Any, tasks: Sequence[str]) -> str | None:
    """How the model scores; None: not at all, or in a way that is not served here."""
    config = llm.model_config
    if not enable_scoring_api(tasks, config) or config.architecture == _LISTWISE:
        return None
    kind: str | None = SCORE_TYPE_MAP.get(config.get_pooling_task(tasks))
    return None if kind == "cross-encoder" and is_mistral_tokenizer(llm.renderer.tokenizer) else kind


async def _as_it_is(_: int, output: torch.Tensor) -> torch.Tensor:
    return output


def _tokens(prompts: Sequence[PoolingPrompt]) -> int:
    return sum(len(prompt.token_ids) for prompt in prompts)


def _groups(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Beginning and end of groups of neighbours that are not too large together."""
    groups: list[tuple[int, int]] = []
    begin, total = 0, 0
    for place, size in enumerate(sizes):
        if place > begin and total + size > MAX_POOLED_BYTES:
            groups.append((begin, place))
            begin, total = place, 0
        total += size
    return [*groups, (begin, len(sizes))]


def _max_sim(query: torch.Tensor, document: torch.Tensor) -> float:
    document = document.float().T
    parts = query.float().split(_QUERY_TOKENS)
    return sum(float((part @ document).amax(dim=-1).sum()) for part in parts)
