"""The fields that chat and text completions share, and what an engine is asked for because of them.

Types are checked here; ranges are checked by `engines.requests`, whose errors come back in the caller's names.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from deployments.http.openai.guidance import Constraint
from deployments.http.server.body_parts import Ignored, Ints, Strings
from deployments.http.server.hints import DispatchFields, DispatchHints
from deployments.http.server.names import Names, Table
from deployments.http.server.stream_format import StreamReport
from deployments.http.server.validation import build, parse_body
from engines.errors import InvalidRequest, Unsupported
from engines.requests import Sampling


class StreamOptions(BaseModel):
    """What a stream reports besides the answer.

    Attributes:
        include_usage: Ends the stream with a chunk of usage.
        continuous_usage_stats: Reports usage so far in every chunk (vLLM's).
        include_obfuscation: OpenAI's padding against traffic analysis; none is sent either way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GenerationBody(DispatchFields):
    """Body of a request for generated text.

    `UNSUPPORTED` names the documented fields that would change the answer and cannot be honoured, each with the values
    that ask for nothing. Null always asks for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    UNSUPPORTED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "use_beam_search": (False,),
        "length_penalty": (1, 1.0),
        "watermarking": (False,),
        "truncate_prompt_tokens": (),
        "truncation_side": (),
        "prompt_logprobs": (),
        "logprob_token_ids": (),
        "thinking_token_budget": (-1,),
        "repetition_detection": (),
        "stream_interval": (1,),
        "return_tokens_as_token_ids": (False,),
        "return_token_offsets": (False,),
        "cache_salt": (),
        "kv_transfer_params": (),
        "ec_transfer_params": (),
        "vllm_xargs": (),
        "request_id": (),
    }

    model: str = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | Strings | None = None
    stop_token_ids: Ints | None = None
    include_stop_str_in_output: bool | None = None
    bad_words: Strings | None = None
    allowed_token_ids: Ints | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    n: int | None = None

    # Read by `guidance`, which knows their shapes.
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: Strings | None = None
    guided_grammar: str | None = None

    add_special_tokens: bool | None = None

    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None


Body = TypeVar("Body", bound=GenerationBody)

_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop_token_ids",
    "include_stop_str_in_output",
    "bad_words",
    "allowed_token_ids",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "n",
)


def parse_generation(model: type[Body], data: Mapping[str, Any]) -> Body:
    """The body as its model.

    Raises:
        Unsupported: It asks for something that is documented and not offered here.
        InvalidRequest: It is wrong.
    """
    supported = {}
    for name, value in data.items():
        neutral = model.UNSUPPORTED.get(name)
        if neutral is None:
            supported[name] = value
        elif value is not None and value not in neutral:
            raise Unsupported(f"{name} is not supported here.", param=name)
    body = parse_body(model, supported)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options: it needs stream to be true.", param="stream_options")
    return body


def named(
    body: GenerationBody, data: Mapping[str, Any], hints: DispatchHints, constraint: Constraint | None, table: Table
) -> Names:
    """What the caller called the fields of a request for generated text.

    Args:
        body: The body.
        data: What it was parsed from.
        hints: What the headers say.
        constraint: What the output must look like.
        table: What this API calls otherwise.
    """
    common: Table = {("resume",): None, **body.dispatch_names(hints)}
    if isinstance(body.stop, str):
        common = {**common, ("stop", 0): ("stop",)}
    return Names(data, {**common, **({} if constraint is None else constraint.names()), **table})


def sampling(body: GenerationBody, names: Names, constraint: Constraint | None, **overrides: Any) -> Sampling:
    """The sampling parameters of a body.

    Args:
        body: The body.
        names: What the caller called its fields.
        constraint: What the output must look like.
        overrides: Fields of Sampling that this API computes from others.

    Raises:
        InvalidRequest: A value is out of range.
    """
    fields: dict[str, Any] = {name: value for name in _SAME_NAME if (value := getattr(body, name)) is not None}
    if body.stop is not None:
        fields["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    if body.logit_bias is not None:
        fields["logit_bias"] = {_token_id(key): bias for key, bias in body.logit_bias.items()}
    if constraint is not None:
        fields["guided"] = {constraint.kind: constraint.value}
    fields.update(overrides)
    return build(Sampling, names, **fields)


def _token_id(key: str) -> int:
    # `isdecimal` alone would let in digits of other scripts, and int() numbers of any length.
    if not (key.isascii() and key.isdecimal() and len(key) <= 10):
        raise InvalidRequest(f"logit_bias: {key[:40]!r} is not a token id.", param="logit_bias")
    return int(key)


def stream_report(body: GenerationBody) -> StreamReport:
    """What the body's stream reports besides the answer."""
    options = body.stream_options or StreamOptions()
    return StreamReport(
        usage=bool(options.include_usage),
        usage_so_far=bool(options.continuous_usage_stats),
        token_ids=bool(body.return_token_ids),
    )
