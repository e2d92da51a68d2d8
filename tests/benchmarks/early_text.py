"""How much sooner an answer begins where its question was computed while it was still being written.

`python -m tests.benchmarks.early_text` boots vLLM with the demo model, in this process. Conversations of a history and
a new text, which comes in pieces as somebody types or speaks, or all at once; both kinds in turn, each of new words.
What counts is the time from the end of the text to the first piece of the answer.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator

from rich.console import Console

from engines.context import Context
from engines.conversation.converse import converse
from engines.conversation.events import TurnDelta
from engines.conversation.frames import Append, Frame, Item, Open, Respond, TurnSettings
from engines.messages import Message
from engines.requests import Sampling
from engines.vllm.engine import VllmEngine
from tests.benchmarks.report import table
from tests.engines.vllm.booted import booted

SIZES = ((1000, 400), (200, 1500))
"""Of history and new text, in tokens, about."""
TIMES = 15
PIECE_CHARS = 60
PIECE_S = 0.02
"""So often a piece comes."""
CHARS_PER_TOKEN = 2.0


def words(random: random.Random, tokens: int) -> str:
    """Text that no engine has cached, of about so many tokens."""
    text = ""
    while len(text) < tokens * CHARS_PER_TOKEN:
        text += f"{random.choice(('count', 'from', 'to', 'add', 'and'))} {random.randint(1, 999)} "
    return text


async def first_piece_s(engine: VllmEngine, history: str, text: str, *, early: bool) -> float:
    """Seconds from the end of the text to the first piece of its answer."""
    asked_s = 0.0

    async def frames() -> AsyncIterator[Frame]:
        nonlocal asked_s
        items = [
            Item(id="before", message=Message(role="user", content=history)),
            Item(id="then", message=Message(role="assistant", content="1 2 3")),
        ]
        yield Open(model="demo", items=items, settings=TurnSettings(sampling=Sampling(max_tokens=4, ignore_eos=True)))
        # The history is cached, as it is after a turn.
        yield Respond(turn="first", settings=TurnSettings(sampling=Sampling(max_tokens=1), aside=True))
        for start in range(0, len(text), PIECE_CHARS):
            await asyncio.sleep(PIECE_S)
            if early:
                yield Append(item="new", message=said(text[start : start + PIECE_CHARS]), open=True)
        asked_s = time.perf_counter()
        yield Append(item="new", message=said("" if early else text))
        yield Respond(turn="second")

    async for event in converse(engine, frames(), Context()):
        if isinstance(event, TurnDelta) and event.turn == "second":
            return time.perf_counter() - asked_s
    raise AssertionError("It said nothing.")


def said(text: str) -> Message:
    """A piece of the user's text."""
    return Message(role="user", content=text)


async def main() -> None:
    """Measures, and prints."""
    made = table("history and new text, tokens", "all at once: p50, ms", "quartiles", "in pieces: p50, ms", "quartiles")
    generator = random.Random(0)
    async with booted("early", max_num_seqs=8) as engine:
        for old, new in SIZES:
            took: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(TIMES):
                for early in (False, True):
                    history, text = words(generator, old), words(generator, new)
                    took[early].append(1000 * await first_piece_s(engine, history, text, early=early))
            cells = []
            for early in (False, True):
                first, median, third = statistics.quantiles(took[early], n=4)
                cells += [f"{median:.0f}", f"{first:.0f} to {third:.0f}"]
            made.add_row(f"{old} and {new}", *cells)
    Console(file=sys.stdout, width=120).print(made)


if __name__ == "__main__":
    asyncio.run(main())
