"""Measures the demo model on held-out examples: ``python -m engines.demo.evaluate``."""

# ruff: noqa: S311, T201 - randomness here has no secrets, and a command speaks to its terminal

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engines.demo import MODEL_PATH, language
from engines.demo.batches import Encoder
from engines.demo.examples import Example, make_example
from engines.demo.tokenizer import MAX_LENGTH, build_tokenizer

_SEED: Final = 1234
_FIRST_TURN_FACTOR: Final = 8
"""Counts in a first turn are what tests and chaos lean on: so many times the other rows' examples."""

LONG_COUNTS: Final[tuple[tuple[int, int], ...]] = (
    (1, 500),
    (1, 999),
    (2, 999),
    (1, 998),
    (100, 900),
    (50, 550),
)


def held_out_examples(task: str, count: int, *, thinking: bool, turns: int | None = None) -> list[Example]:
    """Held-out examples of one task, always the same ones, in conversations of so many turns, or of one to three."""
    rng = random.Random(f"{_SEED} {task} {thinking}")
    return [make_example(rng, task, held_out=True, thinking=thinking, turns=turns) for _ in range(count)]


def long_counts() -> list[Example]:
    """Long counts, each alone in a conversation of one turn."""
    return [
        Example(
            "long count",
            ({"role": "user", "content": f"count from {first} to {last}"},),
            None,
            False,
            language.counting(first, last),
        )
        for first, last in LONG_COUNTS
    ]


def answers(engine: Any, encoder: Encoder, examples: Sequence[Example]) -> list[str]:
    """The model's greedy answers, markup tokens kept.

    Args:
        engine: A ``vllm.LLM``.
        encoder: Renders and encodes the prompts.
        examples: The examples; those with a forced part are not supported.
    """
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": encoder.encode(encoder.render(e))} for e in examples]
    sampling = [
        # The right answer's length and a little more: enough to see that the model does not stop.
        SamplingParams(temperature=0.0, max_tokens=len(encoder.encode(e.answer)) + 8)
        for e in examples
    ]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    return [output.outputs[0].text for output in outputs]


def main() -> None:
    """Reads the command line, measures and prints the table."""
    from vllm import LLM

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    parser.add_argument("--count", type=int, default=400, help="examples per task and mode")
    parser.add_argument("--dtype", default="auto", help="as vLLM's --dtype")
    parser.add_argument("--show", type=int, default=2, help="wrong answers shown per row")
    arguments = parser.parse_args()
    engine = LLM(
        model=str(arguments.model),
        dtype=arguments.dtype,
        max_model_len=MAX_LENGTH,
        max_num_seqs=128,
        enforce_eager=True,
        disable_log_stats=True,
    )
    encoder = Encoder(build_tokenizer())
    rows: list[tuple[str, list[Example]]] = [
        ("long count", long_counts()),
        (
            "count, first turn",
            held_out_examples("count", _FIRST_TURN_FACTOR * arguments.count, thinking=False, turns=1),
        ),
    ]
    for task in language.TASKS:
        for thinking in (False, True):
            name = f"{task}, thinking" if thinking else task
            rows.append((name, held_out_examples(task, arguments.count, thinking=thinking)))
    started = time.monotonic()
    lines = ["| task | right | of | % |", "|---|---|---|---|"]
    for name, examples in rows:
        said = answers(engine, encoder, examples)
        wrong = [(e, s) for e, s in zip(examples, said, strict=True) if s != e.answer]
        right = len(examples) - len(wrong)
        lines.append(f"| {name} | {right} | {len(examples)} | {100 * right / len(examples):.2f} |")
        for example, text in wrong[: arguments.show]:
            prompt = encoder.render(example)[-200:]
            print(f"{name}: ...{prompt!r}\n  wanted {example.answer[-100:]!r}\n  said   {text[-100:]!r}")
    print("\n".join(lines))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
