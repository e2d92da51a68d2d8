"""Going on from token ids that another instance generated.

The ids go through the detokenizer, the stop strings and the parsers of the new stream without a word, one at a time as
they were generated. That leaves every state exactly where the first stream had it, half characters and held back text
included, so the next event says what the first stream would have said next. The core takes them as output that the
request has already (`engines.vllm.scheduler`).

What an engine step yielded is taken to have been delivered as a whole.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from vllm.outputs import CompletionOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.output_processor import RequestState

from engines.events import Event
from engines.turns import Turns
from engines.vllm.scheduler import with_generated
from engines.vllm.streaming import VllmChoice


def vocabulary(tokenizer: Any) -> str:
    """A digest of what the tokenizer's ids mean; empty without a tokenizer."""
    if tokenizer is None:
        return ""
    digest = blake2b(digest_size=8)
    for token, token_id in sorted(tokenizer.get_vocab().items(), key=itemgetter(1)):
        digest.update(f"{token_id} {token!r}\n".encode())
    return digest.hexdigest()


@dataclass(slots=True)
class Start:
    """Where a choice that has not ended goes on.

    Attributes:
        token_ids: What it has generated; empty where it begins.
        detokenizer: One that has read them, if there are any.
    """

    token_ids: Sequence[int]
    detokenizer: IncrementalDetokenizer | None = None

    def params(self, params: SamplingParams) -> SamplingParams:
        """The choice's sampling parameters, with the ids on their way to the core."""
        if not self.token_ids:
            return params
        params = copy(params)  # Choices share theirs.
        params.extra_args = with_generated(params, self.token_ids)
        return params

    def place(self, state: RequestState) -> None:
        """Lets vLLM's output handler go on with the detokenizer."""
        if self.detokenizer is not None:
            state.detokenizer = self.detokenizer


async def going_on(
    params: SamplingParams,
    make_detokenizer: Callable[[], IncrementalDetokenizer],
    choices: Sequence[VllmChoice],
    generated: Sequence[Sequence[int]],
) -> dict[int, Start]:
    """Where the choices of a request go on.

    Args:
        params: Of the whole request, as vLLM has completed them.
        make_detokenizer: Makes one for the whole request.
        choices: The choices, silent so far.
        generated: What each has generated already; empty where it begins.

    Returns:
        By index; those that had ended already are missing, and know that they have.
    """
    starts, turns = {}, Turns()
    for index, token_ids in enumerate(generated):
        start = Start(token_ids)
        if token_ids:
            start.detokenizer = make_detokenizer()
            if await replay(params, start.detokenizer, choices[index], token_ids, turns):
                continue
        starts[index] = start
    return starts


async def replay(
    params: SamplingParams,
    detokenizer: IncrementalDetokenizer,
    choice: VllmChoice,
    token_ids: Sequence[int],
    turns: Turns,
) -> bool:
    """Feeds the ids to a new detokenizer and a new choice, silently.

    Args:
        params: Of the whole request, as vLLM has completed them.
        detokenizer: Made for the whole request.
        choice: The choice that goes on.
        token_ids: What was generated.
        turns: Of the request: a long answer, or many, take several.

    Returns:
        Whether the choice had ended with them already.
    """
    for token_id in token_ids:
        await turns.pause()
        # In the order of vLLM's scheduler: an end token stops whatever min_tokens says, which only keeps it from
        # being drawn.
        is_end = token_id == params.eos_token_id or token_id in params.stop_token_ids
        reason = "stop" if is_end else None
        stop_reason: int | str | None = token_id if is_end and token_id != params.eos_token_id else None
        if reason is None and choice.tokens + 1 >= params.max_tokens:
            reason = "length"
        stop_string = detokenizer.update([token_id], is_end)
        if stop_string is not None:
            reason, stop_reason = "stop", stop_string
        text = detokenizer.get_next_output_text(reason is not None, delta=True)
        choice.take(CompletionOutput(choice.index, text, [token_id], None, None, None, reason, stop_reason), _silence)
        if reason is not None:
            return True
    choice.forget_pending()
    return False


def _silence(_: Event) -> None:
    return None
