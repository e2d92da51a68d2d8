"""What the bodies of `/rerank` and `/score` have in common, and what an engine is asked for because of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field

from deployments.http.scoring.model_name import named_model
from deployments.http.scoring.texts import Texts
from deployments.http.server.body_parts import Ignored, Refusals, Strict, supported
from deployments.http.server.exchange import Exchange
from deployments.http.server.hints import DispatchFields
from deployments.http.server.names import Names
from deployments.http.server.validation import build, parse_body
from engines.pooling_requests import ScoreRequest

COMMON_REFUSALS: Refusals = {
    "padding": ("nothing is padded", ("do_not_pad",)),
    "request_id": ("the id comes in the header x-request-id", ()),
    "cache_salt": ("each tenant's prefix cache is its own already", ()),
    "mm_processor_kwargs": ("only text is taken", ({},)),
}
"""Of the fields that vLLM's server takes for each pooling model."""


class TemplateKwargs(Strict):
    """What the template of a reranker is given: of what it may read, only the instruction, which costs what it says."""

    instruction: str | None = None


class ScoringBody(DispatchFields):
    """The fields besides the texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = Field(None, min_length=1)
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: int | None = None
    max_tokens_per_doc: int | None = None
    use_activation: bool | None = None
    instruction: str | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    user: Ignored = None


Body = TypeVar("Body", bound=ScoringBody)

_SAME_NAME = (
    "truncate_prompt_tokens",
    "truncation_side",
    "max_tokens_per_query",
    "max_tokens_per_doc",
    "use_activation",
)


@dataclass(frozen=True, slots=True)
class Asked(Generic[Body]):
    """What was asked for.

    Attributes:
        body: The fields besides the texts.
        request: The request to the engine.
        names: What the caller calls its fields.
    """

    body: Body
    request: ScoreRequest
    names: Names


def asked_for(
    exchange: Exchange, kind: type[Body], data: Mapping[str, Any], queries: Texts, documents: Texts
) -> Asked[Body]:
    """What an engine is asked for.

    Args:
        exchange: The request.
        kind: The body's class.
        data: The body.
        queries: The queries in it.
        documents: The documents in it.

    Raises:
        InvalidRequest: A field is wrong.
        Unsupported: One cannot be honoured.
        ModelNotFound: The model is not served.
    """
    rest = {name: value for name, value in data.items() if name not in (queries.field, documents.field)}
    body = parse_body(kind, supported(rest, COMMON_REFUSALS))
    model = named_model(exchange, body.model, "score")
    hints = exchange.hints()
    table = {**body.dispatch_names(hints), **queries.names("queries"), **documents.names("documents")}
    instruction = body.instruction
    if body.chat_template_kwargs is not None and body.chat_template_kwargs.instruction is not None:
        instruction = body.chat_template_kwargs.instruction
        table["instruction",] = ("chat_template_kwargs", "instruction")
    names = Names(data, table)
    request = build(
        ScoreRequest,
        names,
        model=model,
        queries=queries.texts,
        documents=documents.texts,
        instruction=instruction,
        **{name: getattr(body, name) for name in _SAME_NAME},
        **body.dispatch(hints),
    )
    return Asked(body, request, names)
