"""From generated token ids to events: what vLLM's detokenizer, stop checks and parsers do, for one choice.

The state is a function of the ids alone, so feeding the ids of a broken stream silently rebuilds it exactly.
"""

import codecs
import math

from engines.events import (
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from engines.requests import GenerateRequest
from engines.simulated.tokenizer import BYTES_OF, FIRST_WORD, VOCABULARY_SIZE, Special

_TEXT, _REASONING, _TOOL_NAME, _ARGUMENTS = range(4)

_plain: dict[int, list[TextDelta]] = {}


def _plain_deltas(index: int) -> list[TextDelta]:
    """The events of single words, by id less FIRST_WORD. Events never change, so every request may share them."""
    deltas = _plain.get(index)
    if deltas is None:
        deltas = _plain[index] = [
            TextDelta(BYTES_OF[token_id].decode(), index, (token_id,))
            for token_id in range(FIRST_WORD, VOCABULARY_SIZE)
        ]
    return deltas


class Output:
    """One choice under way.

    Attributes:
        tokens: Tokens generated.
        reasoning_tokens: Those of them inside reasoning.
        reason: Why it ended; None while it goes on.
        stop_reason: The stop string or token id that ended it.

    Args:
        request: The request.
        index: The choice's index.
        max_tokens: Tokens after which it ends.
        thinking: Whether the prompt ended inside reasoning.
        call_prefix: What the ids of its tool calls begin with.
    """

    __slots__ = (
        "_call",
        "_call_prefix",
        "_decoder",
        "_held",
        "_ids",
        "_index",
        "_logprobs",
        "_max_tokens",
        "_mode",
        "_name",
        "_plain",
        "_quiet",
        "_sampling",
        "_simple",
        "_stops",
        "_tells_reasoning",
        "reason",
        "reasoning_tokens",
        "stop_reason",
        "tokens",
    )

    def __init__(
        self, request: GenerateRequest, index: int, *, max_tokens: int, thinking: bool, call_prefix: str
    ) -> None:
        sampling = request.sampling
        self.tokens = 0
        self.reasoning_tokens = 0
        self.reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._sampling = sampling
        self._stops = tuple(sampling.stop)
        self._max_tokens = max_tokens
        self._index = index
        self._mode = _REASONING if thinking else _TEXT
        self._tells_reasoning = request.include_reasoning
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # Text that may turn out to begin a stop string.
        self._ids: list[int] = []  # Tokens that no event has carried yet.
        self._logprobs: list[TokenLogprob] = []
        self._name: list[str] = []
        self._call = 0
        self._call_prefix = call_prefix
        self._plain = _plain_deltas(index)
        self._simple = not (sampling.stop or sampling.stop_token_ids or sampling.logprobs is not None)
        """Whether nothing is looked for in the text."""
        self._quiet = self._simple and not thinking
        """Whether a word can be passed on as it is, because nothing is held either."""

    def feed(self, token_id: int) -> Delta | None:
        """Takes the next token; returns what can be said now. After the last one `reason` is set."""
        self.tokens += 1
        if self._quiet and token_id >= FIRST_WORD:
            if self.tokens >= self._max_tokens:
                self.reason = "length"
            return self._plain[token_id - FIRST_WORD]
        return self._feed(token_id)

    def unsaid(self) -> TextDelta | None:
        """The tokens that no event has carried, when the choice is cut off; what they say is held for good."""
        return self._text("") if self._ids else None

    def _feed(self, token_id: int) -> Delta | None:
        self._ids.append(token_id)
        if self._sampling.logprobs is not None:
            self._logprobs.append(made_up_logprob(token_id, self.tokens, self._sampling.logprobs))
        last = self.tokens >= self._max_tokens
        if token_id == Special.END:
            self.reason = "tool_calls" if self._call else "stop"
            return self._close("")
        if token_id in self._sampling.stop_token_ids and self.tokens > self._sampling.min_tokens:
            self.reason, self.stop_reason = "stop", token_id
            shown = self._sampling.include_stop_str_in_output
            return self._close(self._decoder.decode(BYTES_OF[token_id]) if shown else "")
        if last:
            self.reason = "length"
        delta = self._parse(token_id, last=last)
        self._quiet = (
            self._mode == _TEXT
            and self._simple
            and not self._ids
            and not self._decoder.getstate()[0]  # bytes of half a character
        )
        return delta if delta is not None or not last else self._text("")

    def _parse(self, token_id: int, *, last: bool) -> Delta | None:
        mode = self._mode
        if mode == _REASONING:
            self.reasoning_tokens += 1
            if token_id == Special.END_THINK:
                self._mode = _TEXT
                return self._reasoning(self._decoder.decode(b"", True))
            return self._reasoning(self._decoder.decode(BYTES_OF[token_id], last))
        if mode == _TEXT:
            if token_id == Special.TOOL_CALL:
                self._mode = _TOOL_NAME
                text, self._held = self._held + self._decoder.decode(b"", True), ""
                return self._text(text) if text else None
            return self._released(self._decoder.decode(BYTES_OF[token_id], last), last=last)
        if mode == _TOOL_NAME:
            if token_id != Special.ARGUMENTS:
                self._name.append(self._decoder.decode(BYTES_OF[token_id]))
                return None
            self._mode = _ARGUMENTS
            name, self._name = "".join(self._name), []
            id = f"{self._call_prefix}{self._call}"
            return ToolCallStarted(self._call, id, name, self._index, self._carry()[0])
        if token_id == Special.END_TOOL_CALL:
            self._mode = _TEXT
            self._call += 1
            return ToolCallFinished(self._call - 1, self._index, self._carry()[0])
        text = self._decoder.decode(BYTES_OF[token_id], last)
        return ToolCallArgumentsDelta(self._call, text, self._index, self._carry()[0]) if text else None

    def _released(self, text: str, *, last: bool) -> TextDelta | None:
        """What of the text can be said: not what may yet turn out to be a stop string, or was one."""
        if not self._stops:
            return self._text(text) if text else None
        held = self._held + text
        if self.tokens > self._sampling.min_tokens:
            hit = min(((at, stop) for stop in self._stops if (at := held.find(stop)) >= 0), default=None)
            if hit is not None:
                at, stop = hit
                self.reason, self.stop_reason = "stop", stop
                self._held = ""
                return self._text(held[: at + len(stop)] if self._sampling.include_stop_str_in_output else held[:at])
        keep = 0 if last else max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        said = held[: len(held) - keep]
        return self._text(said) if said else None

    def _close(self, text: str) -> Delta:
        """The last event of a choice that ends by a token of its own: what was held, and this text."""
        text = self._held + text + self._decoder.decode(b"", True)
        self._held = ""
        if self._mode == _REASONING:
            if self._tells_reasoning:
                return ReasoningDelta(text, self._index, *self._carry())
            self._logprobs.clear()
        return self._text(text if self._mode == _TEXT else "")

    def _text(self, text: str) -> TextDelta:
        return TextDelta(text, self._index, *self._carry())

    def _reasoning(self, text: str) -> ReasoningDelta | None:
        if not self._tells_reasoning:
            self._logprobs.clear()  # The ids travel on.
            return None
        return ReasoningDelta(text, self._index, *self._carry()) if text else None

    def _carry(self) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None]:
        """The tokens, and their log probabilities where asked for, that the next event carries."""
        ids = tuple(self._ids)
        self._ids.clear()
        if self._sampling.logprobs is None:
            return ids, None
        logprobs = tuple(self._logprobs)
        self._logprobs.clear()
        return ids, logprobs


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that begins the stop string without being all of it."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0


def made_up_logprob(token_id: int, position: int, top: int) -> TokenLogprob:
    """A log probability for a token: the likeliest at its position, the others halving what is left.

    Args:
        token_id: The token drawn.
        position: Its position in the answer.
        top: How many of the likeliest tokens to list.
    """
    mixed = (token_id * 2654435761 + position * 40503) % 2**32
    probability = 0.6 + 0.39 * mixed / 2**32
    drawn = _logprob(token_id, probability)
    if not top:
        return drawn
    likeliest = [drawn]
    left = 1.0 - probability
    other = mixed
    while len(likeliest) < top:
        other += 1
        candidate = FIRST_WORD + other % (VOCABULARY_SIZE - FIRST_WORD)
        if candidate != token_id:
            left /= 2
            likeliest.append(_logprob(candidate, left))
    return TokenLogprob(drawn.token, drawn.token_id, drawn.logprob, drawn.utf8, tuple(likeliest))


def _logprob(token_id: int, probability: float) -> TokenLogprob:
    utf8 = BYTES_OF[token_id]
    return TokenLogprob(utf8.decode("utf-8", "replace"), token_id, math.log(probability), utf8)
