"""Body of `POST /v1/completions`."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.http.openai.generation_body import (
    GenerationBody,
    named,
    parse_generation,
    sampling,
)
from deployments.http.openai.guidance import guidance
from deployments.http.server.asking import Asking
from deployments.http.server.hints import DispatchHints
from deployments.http.server.inputs import Input, check_inputs
from deployments.http.server.names import Location, Table
from deployments.http.server.validation import build
from engines.errors import InvalidRequest, Unsupported
from engines.requests import MAX_CHOICES, GenerateRequest

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for this API only."""


class CompletionBody(GenerationBody):
    """One or several prompts to be continued."""

    UNSUPPORTED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **GenerationBody.UNSUPPORTED,
        "prompt_embeds": (),
    }

    prompt: Input
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None


def parse_completion(
    data: Mapping[str, Any], hints: DispatchHints, filling: Callable[[str], FillInTheMiddle | None] = lambda _: None
) -> tuple[CompletionBody, list[Asking]]:
    """The body, and what an engine is asked for because of it: one request per prompt.

    Args:
        data: The body.
        hints: What the headers say.
        filling: How a model is shown the text before a gap and after it, by its name; raises ModelNotFound. Left out:
            none fills any.

    Raises:
        InvalidRequest: It is wrong.
        ModelNotFound: The model that is to fill a gap is not served.
    """
    check_inputs(data, "prompt", MAX_CHOICES)
    body = parse_generation(CompletionBody, data)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Unsupported("best_of: only the value of n is supported.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise Unsupported("echo: log probabilities of the prompt are not supported.", param="echo")
    prompts = _filled(body, filling(body.model)) if body.suffix else _prompts(body)
    if len(prompts) * max(1, body.n or 1) > MAX_CHOICES:
        raise InvalidRequest(f"prompt: prompts times n must be at most {MAX_CHOICES}.", param="prompt")
    overrides: dict[str, Any] = {"logprobs": body.logprobs}
    if body.max_tokens is None:
        overrides["max_tokens"] = max(DEFAULT_MAX_TOKENS, body.min_tokens or 0)
    constraint = guidance(data)
    drawn = sampling(body, named(body, data, hints, constraint, {}), constraint, **overrides)
    several = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
    askings = []
    for index, prompt in enumerate(prompts):
        place: Location = ("prompt", index) if several else ("prompt",)
        table: Table = {("prompt",): place, ("prompt_token_ids",): place, ("token_ids",): place}
        names = named(body, data, hints, constraint, table)
        request = build(
            GenerateRequest,
            names,
            model=body.model,
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_token_ids=None if isinstance(prompt, str) else prompt,
            sampling=drawn,
            add_special_tokens=body.add_special_tokens,
            **body.dispatch(hints),
        )
        askings.append(Asking(request, names))
    return body, askings


def _prompts(body: CompletionBody) -> list[str] | list[list[int]]:
    if not body.prompt:
        raise InvalidRequest("prompt: it is empty.", param="prompt")
    prompts = _several(body)
    for index, item in enumerate(prompts):
        if not item:
            raise InvalidRequest(f"prompt[{index}]: it is empty.", param=f"prompt[{index}]")
    return prompts


def _filled(body: CompletionBody, filling: FillInTheMiddle | None) -> list[str]:
    """The prompt that asks for what stands before the suffix. Before a gap at the beginning stands nothing."""
    if filling is None:
        raise Unsupported(
            f"suffix: the model {body.model!r} does not fill gaps. Where it was trained for that, "
            "`fill_in_the_middle` in the fleet file says how.",
            param="suffix",
        )
    if body.echo:
        raise Unsupported("echo: a prompt that is followed by a suffix is not repeated.", param="echo")
    prompts = _several(body) if body.prompt != [] else []
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        # Each would have the suffix, which may be megabytes, for itself.
        raise Unsupported("prompt: with a suffix it must be one text.", param="prompt")
    return [filling.filled(prompts[0], body.suffix or "")]


def _several(body: CompletionBody) -> list[str] | list[list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    # The types of a list are checked; its first item tells which of them it is.
    return [prompt] if isinstance(prompt[0], int) else prompt
