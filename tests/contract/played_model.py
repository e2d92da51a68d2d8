"""The script of a model that can count: what the scripted engine plays in the contract suite."""

import re
from collections.abc import Iterator

from engines.contract import Capabilities
from engines.errors import ContextOverflow, InvalidRequest, Unsupported
from engines.events import Finished, FinishReason, TextDelta, Usage
from engines.requests import GenerateRequest
from engines.scripted.script import Item, Script, prompt_text

CAPABILITIES = Capabilities(embed=True, score=True, pooling=True, tokenize=True, resume=True, context_length=4096)


def play(request: GenerateRequest) -> Script:
    """Counts, within the limits that the request sets. A token is a character."""
    sampling = request.sampling
    prompt = prompt_text(request)
    if not prompt:
        raise InvalidRequest("The prompt is empty.", param=request.kind)
    for param, asked in (
        ("tools", request.tools),
        ("sampling.guided", sampling.guided),
        ("sampling.logprobs", sampling.logprobs),
    ):
        if asked:
            raise Unsupported(f"A played model has no {param}.", param=param)
    room = CAPABILITIES.context_length - len(prompt)
    if room < (sampling.max_tokens or 1):
        raise ContextOverflow(
            "Too long.",
            context_length=CAPABILITIES.context_length,
            prompt_tokens=len(prompt),
            param=request.kind if room < 1 else "sampling.max_tokens",
        )
    return _speak(request, prompt, sampling.max_tokens or room)


def _speak(request: GenerateRequest, prompt: str, max_tokens: int) -> Iterator[Item]:
    text, reason, stop = _answer(request, prompt, max_tokens)
    words = re.findall(r" ?[^ ]+| ", text)
    for word in words:
        for index in range(request.sampling.n):
            yield TextDelta(word, index, tuple(map(ord, word)))
    n = request.sampling.n
    yield Finished((reason,) * n, Usage(len(prompt), n * sum(map(len, words))), "", (stop,) * n)


def _answer(request: GenerateRequest, prompt: str, max_tokens: int) -> tuple[str, FinishReason, str | None]:
    sampling = request.sampling
    counting = re.search(r"count from (\d+) to (\d+)", prompt)
    text = " ".join(map(str, range(int(counting[1]), int(counting[2]) + 1))) if counting else "what?"
    if sampling.ignore_eos:
        text = text.ljust(max_tokens, ".")
    cut = min(((at, stop) for stop in sampling.stop if (at := text.find(stop)) >= 0), default=None)
    if cut is not None and cut[0] + len(cut[1]) <= max_tokens:
        at, stop = cut
        return text[: at + len(stop) * sampling.include_stop_str_in_output], "stop", stop
    return (
        (text[:max_tokens], "length", None) if sampling.ignore_eos or len(text) > max_tokens else (text, "stop", None)
    )
