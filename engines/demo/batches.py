"""Turns the demo language's examples into batches of token ids for training."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from engines.demo.examples import Example, make_example
from engines.demo.tokenizer import CHAT_TEMPLATE, IM_END, IM_START, MAX_LENGTH, MAX_NUMBER, token_id

_LONG: Final = 40
"""Numbers from which on a count is taught by its head and a few windows."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """One training sequence.

    Attributes:
        tokens: Token ids.
        positions: Position of each token; jumps where a part of a long answer was left out.
        learned: Whether each token is one that the model must predict.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    learned: tuple[bool, ...]


class Encoder:
    """Renders and encodes examples as the server will."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # The environment that transformers renders chat templates in.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        self._template = environment.from_string(CHAT_TEMPLATE)
        self._start = token_id(tokenizer, IM_START)
        self._end = token_id(tokenizer, IM_END)
        self._numbers = {self.encode(f" {number}")[0]: number for number in range(MAX_NUMBER + 1)}
        self._assistant = token_id(tokenizer, "assistant")

    def render(self, example: Example) -> str:
        """The prompt of the example, up to where the answer begins."""
        return self._template.render(
            messages=example.messages,
            tools=example.tools,
            add_generation_prompt=True,
            enable_thinking=example.thinking,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def sequence(self, example: Example, rng: random.Random, *, whole: bool) -> Sequence:
        """Encodes an example for training.

        The assistant's earlier answers are learned as well, since the template renders them
        just as the model once had to say them.

        Args:
            example: The example.
            rng: Chooses the part of a long answer to keep.
            whole: Whether long answers are kept whole.
        """
        tokens = self.encode(self.render(example))
        learned = self._learned(tokens)
        answer = [*self.encode(example.answer), self._end]
        forced = len(self.encode(example.forced))
        tokens += answer
        learned += [False] * forced + [True] * (len(answer) - forced)
        positions = list(range(len(tokens)))
        if not whole:
            keep = _windows(tokens, self._numbers, rng)
            # The first tokens after a jump cannot be predicted from what is left.
            learned = [
                wanted and index >= 3 and keep[index - 3 : index] == [True] * 3 for index, wanted in enumerate(learned)
            ]
            tokens = [token for token, kept in zip(tokens, keep, strict=True) if kept]
            positions = [position for position, kept in zip(positions, keep, strict=True) if kept]
            learned = [wanted for wanted, kept in zip(learned, keep, strict=True) if kept]
        return Sequence(tuple(tokens[:MAX_LENGTH]), tuple(positions[:MAX_LENGTH]), tuple(learned[:MAX_LENGTH]))

    def _learned(self, tokens: list[int]) -> list[bool]:
        learned = [False] * len(tokens)
        inside = False
        for index in range(3, len(tokens)):
            if tokens[index - 3] == self._start and tokens[index - 2] == self._assistant:
                inside = True
            learned[index] = inside
            if tokens[index] == self._end:
                inside = False
        if inside:
            # The generation prompt: nothing of it is the model's.
            last = len(tokens) - 1 - tokens[::-1].index(self._start)
            learned[last:] = [False] * (len(tokens) - last)
        return learned


def _windows(tokens: list[int], numbers: Mapping[int, int], rng: random.Random) -> list[bool]:
    """Which tokens to keep: of each long count its head, and windows where it ends and where it must not."""
    keep = [True] * len(tokens)
    start = 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and tokens[end] in numbers:
            end += 1
        if end - start > _LONG:
            traps = _traps(tokens, start, end, numbers)
            spots = [*rng.sample(traps, min(len(traps), 2)), rng.randint(start + 8, end - 1)]
            windows = [(spot - rng.randint(3, 5), spot + rng.randint(2, 4)) for spot in spots]
            if rng.random() < 0.9:
                windows.append((end - rng.randint(4, 8), end))
            head = start + rng.choice((0, 3, 12))
            for index in range(start, end):
                keep[index] = index < head or any(first <= index < last for first, last in windows)
        start = end + 1
    return keep


def _traps(tokens: list[int], start: int, end: int, numbers: Mapping[int, int]) -> list[int]:
    """Where a count may seem to be over: at numbers said before, and at those that resemble its last."""
    said = set(tokens[:start])
    last = f"{numbers[tokens[end - 1]]:03}"
    return [
        index
        for index in range(start + 8, end - 1)
        if tokens[index] in said or sum(a != b for a, b in zip(f"{numbers[tokens[index]]:03}", last, strict=True)) == 1
    ]


def batches(
    encoder: Encoder,
    rng: random.Random,
    *,
    tokens_per_batch: int,
    whole_share: float = 0.0,
    counts: float = 0.0,
    turns: int | None = None,
) -> Iterator[list[Sequence]]:
    """Endless batches of sequences of like length.

    Args:
        encoder: Encodes the examples.
        rng: Source of all choices.
        tokens_per_batch: Most tokens of a batch, padding counted.
        whole_share: Share of the examples whose long answers are kept whole.
        counts: Share of the examples that are counts, besides those of the language's own mixture.
        turns: Turns of each conversation, or None for one to three.
    """
    while True:
        pool = []
        for _ in range(2000):
            example = make_example(rng, "count" if rng.random() < counts else None, turns=turns)
            pool.append(encoder.sequence(example, rng, whole=rng.random() < whole_share))
        pool.sort(key=lambda sequence: len(sequence.tokens))
        groups: list[list[Sequence]] = [[]]
        for sequence in pool:
            if (len(groups[-1]) + 1) * len(sequence.tokens) > tokens_per_batch:
                groups.append([])
            groups[-1].append(sequence)
        groups = [group for group in groups if group]
        rng.shuffle(groups)
        yield from groups


def _to_json(value: Any, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
