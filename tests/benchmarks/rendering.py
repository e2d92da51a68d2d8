"""What the prompt of a long chat costs: its template, its token ids, and how long the event loop stands still for it.

`python -m tests.benchmarks.rendering` renders chats with the demo model's template and tokenizer, and with a byte-level
BPE of 100,000 tokens that it trains on the Python sources of this installation, which takes some minutes. It boots no
engine: vLLM's renderer and tokenizers run by themselves.
"""

import argparse
import asyncio
import logging
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.demo import MODEL_PATH
from engines.messages import Message
from engines.requests import GenerateRequest
from tests.benchmarks.quantiles import Spread
from tests.benchmarks.report import table
from tests.engines.vllm.unbooted import rendering

LENGTHS = (1_000, 8_000, 32_000, 100_000)
"""Of the history, in tokens, about."""
CONTEXT = 200_000
TIMES = 5
VOCABULARY = 100_000
TRAINED_ON_BYTES = 24 * 2**20
MESSAGE_CHARS = 400
"""Of one message of the history."""


def trained(folder: Path) -> Path:
    """A byte-level BPE with the demo's template and control tokens, in a folder as vLLM loads it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from engines.demo.tokenizer import CONTROL_TOKENS, save_tokenizer

    made = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts(TRAINED_ON_BYTES), trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet)
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    save_tokenizer(made, folder)
    # VLLM takes the kind of the model from beside the tokenizer.
    (folder / "config.json").write_bytes((MODEL_PATH / "config.json").read_bytes())
    return folder


def texts(size: int) -> Iterator[str]:
    """Python sources, of so many bytes together."""
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        if size <= 0:
            return
        text = path.read_text("utf-8", errors="ignore")
        size -= len(text)
        yield text


class Chats:
    """Chats that differ from their first word on, and their next turns."""

    def __init__(self) -> None:
        self._sources = "".join(texts(4 * 2**20))
        self._random = random.Random(1)

    def chat(self, chars: int) -> list[Message]:
        """One of about so many characters, which ends with the user's question."""
        messages = [self._message("user")]
        for _ in range(max(1, chars // (2 * MESSAGE_CHARS))):
            messages += self.turn()
        return messages

    def turn(self) -> list[Message]:
        """An answer, and the user's next question."""
        return [self._message("assistant"), self._message("user")]

    def _message(self, role: str) -> Message:
        start = self._random.randrange(len(self._sources) - MESSAGE_CHARS)
        return Message.model_validate({"role": role, "content": self._sources[start : start + MESSAGE_CHARS]})


async def watched(measured: Any) -> tuple[float, float, Any]:
    """How long it took, the longest pause of the event loop meanwhile, in seconds, and what came out."""
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(0.0005)
            longest_s = max(longest_s, time.perf_counter() - began_s - 0.0005)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.002)
    longest_s = 0.0
    began_s = time.perf_counter()
    made = await measured
    took_s = time.perf_counter() - began_s
    await asyncio.sleep(0)
    ticking.cancel()
    return took_s, longest_s, made


async def measure(console: Console, name: str, tokenizer: Path) -> None:
    """Prints what the chats cost with one tokenizer."""
    longer = {"hf_overrides": {"max_position_embeddings": CONTEXT}, "max_model_len": CONTEXT}
    options = {"tokenizer": str(tokenizer), "engine_args": longer}
    kept, plain = rendering(**options), rendering(**options, token_cache_bytes=0)
    chats = Chats()
    sample = len((await plain.generate(_request(chats.chat(100_000)))).token_ids) / 100_000
    made = table(
        "tokens", "template", "tokenize", "loop", "turn without", "loop", "turn with", "loop", "first with", "loop"
    )
    for length in LENGTHS:
        columns: list[list[float]] = [[] for _ in range(9)]
        tokens = 0
        for _ in range(TIMES):
            history = chats.chat(round(length / sample))
            following = history + chats.turn()
            rendered = await plain.generate(_request(following))
            text, tokens = rendered.engine_input["prompt"], len(rendered.token_ids)
            pieces = plain.online.renderer
            tokenize = await watched(asyncio.to_thread(pieces.tokenizer, text, add_special_tokens=False))
            template = await watched(asyncio.to_thread(_template, pieces, following))
            without = await watched(plain.generate(_request(following)))
            first = await watched(kept.generate(_request(history)))
            turn = await watched(kept.generate(_request(following)))
            assert turn[2].token_ids == without[2].token_ids
            figures = [template[0], *tokenize[:2], *without[:2], *turn[:2], *first[:2]]
            for column, figure in zip(columns, figures, strict=True):
                column.append(figure * 1e3)
        made.add_row(f"{tokens:,}", *(f"{Spread.of(column).median:.1f}" for column in columns))
    console.print(f"{name}: milliseconds, medians of {TIMES}; `loop` is the event loop's longest pause meanwhile")
    console.print(made)


def _template(renderer: Any, messages: list[Message]) -> None:
    from vllm.renderers import ChatParams

    kwargs = {"tokenize": False, "add_generation_prompt": True}
    renderer.render_messages([one.for_template() for one in messages], ChatParams(chat_template_kwargs=kwargs))


def _request(messages: list[Message]) -> GenerateRequest:
    return GenerateRequest(model="demo", messages=messages)


def main() -> None:
    """Measures both tokenizers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="only the demo model's tokenizer")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console(file=sys.stdout, width=140)
    asyncio.run(measure(console, "demo", MODEL_PATH))
    if not arguments.demo:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(console, f"byte-level BPE, {VOCABULARY:,} tokens", trained(Path(folder))))


if __name__ == "__main__":
    main()
