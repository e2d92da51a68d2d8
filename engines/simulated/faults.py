"""Requests that do an engine harm, on purpose: off unless a fleet file asks for them.

A request whose prompt holds a text kills the process that the engine lives in, or makes the engine hang: it takes no
step any more, for anybody. Wherever such a request is sent, it does so again.
"""

import asyncio
import os
import signal
from typing import Literal

from engines.simulated.options import FaultOptions
from engines.simulated.scheduler import Sequence
from engines.simulated.tokenizer import decode

Harm = Literal["kill", "hang"]


class Faults:
    """What requests do to one engine.

    Args:
        options: Which requests, and when; None: none do.
    """

    def __init__(self, options: FaultOptions | None) -> None:
        self._options = options
        self._harmful: dict[Sequence, Harm] = {}
        self._hangs = False

    async def arrives(self, prompt: list[int]) -> None:
        """A request came, and was not accepted yet."""
        if self._options is not None and self._options.after_tokens is None:
            harm = self._harm(self._options, prompt)
            if harm is not None:
                await self._do(harm)

    def accepted(self, sequences: list[Sequence], prompt: list[int]) -> None:
        """The sequences of a request are about to run."""
        harm = None if self._options is None else self._harm(self._options, prompt)
        if harm is not None:
            self._harmful.update(dict.fromkeys(sequences, harm))

    async def step(self, batch: list[tuple[Sequence, int]]) -> None:
        """The engine is about to compute a step."""
        if self._options is None:
            return
        if self._hangs:
            await self._do("hang")
        for sequence in [one for one in self._harmful if one.over]:
            del self._harmful[sequence]
        for sequence, _ in batch:
            harm = self._harmful.get(sequence)
            if harm is not None and sequence.output.tokens >= (self._options.after_tokens or 0):
                await self._do(harm)

    async def _do(self, harm: Harm) -> None:
        if harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._hangs = True
        await asyncio.Event().wait()

    @staticmethod
    def _harm(options: FaultOptions, prompt: list[int]) -> Harm | None:
        text = decode(prompt)
        if options.kill and options.kill in text:
            return "kill"
        return "hang" if options.hang and options.hang in text else None
