"""How far streams are: what they say shows it, and of those that say nothing vLLM's core is asked.

That answer is up to a second old, and a core that is dead or hangs gives none. Whether a step has taken a request up
since then, a record says that needs no answer.
"""

import asyncio
from contextlib import suppress
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError

from engines.context import Context
from engines.contract import Progress
from engines.vllm.scheduler import PROGRESS
from engines.vllm.step_record import StepRecord, key_of
from engines.vllm.streaming import VllmStream

_INTERVAL_S = 1.0
"""The core answers between two steps: it is asked no more often than this, for all silent streams at once."""


class ProgressBoard:
    """Answers `Engine.progress`, which does not wait, with the latest that is known.

    Args:
        core: vLLM's client of its core.
        record: Which requests its steps have taken up.
    """

    def __init__(self, core: Any, record: StepRecord) -> None:
        self._core = core
        self._record = record
        self._taken_up: set[int] = set()  # Since the core was asked last.
        self._streams: dict[Context, VllmStream] = {}
        self._silent: set[VllmStream] = set()
        self._asking: asyncio.Task[None] | None = None

    def add(self, stream: VllmStream) -> None:
        """Follows a stream from now on."""
        self._streams[stream.context] = stream

    def discard(self, stream: VllmStream) -> None:
        """Follows it no more."""
        self._streams.pop(stream.context, None)
        self._silent.discard(stream)

    def of(self, context: Context) -> Progress | None:
        """How far the stream of a context is; None where there is none, as while its prompt is rendered."""
        stream = self._streams.get(context)
        if stream is None:
            return None
        told = stream.progress()
        if told is not None:
            return told
        self._silent.add(stream)
        self._follow()
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return stream.reported

    def close(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        """Asks the core once for all that were silent, and keeps others from asking for a while."""
        try:
            # Those that are asked about in the same turn of the loop are asked for together.
            await asyncio.sleep(0)
            asked, self._silent = self._silent, set()
            self._follow()
            self._taken_up.clear()
            parts = [part for stream in asked for part in stream.parts]
            # A core that is dead says so to everybody; one that hangs does not answer, and takes no step either.
            with suppress(EngineDeadError):
                self._note(asked, await self._core.call_utility_all_async(PROGRESS, parts))
            await asyncio.sleep(_INTERVAL_S)
        finally:
            self._asking = None

    def _follow(self) -> None:
        """Takes what the record says since the last time."""
        if taken_up := self._record.taken_up():
            self._taken_up |= taken_up
            for stream in self._streams.values():
                if not stream.reported.scheduled and self._is_taken_up(stream):
                    stream.reported = Progress(stream.reported.tokens)

    def _is_taken_up(self, stream: VllmStream) -> bool:
        return any(key_of(part) in self._taken_up for part in stream.parts)

    def _note(self, asked: set[VllmStream], cores: list[dict[str, tuple[int, bool]]]) -> None:
        told = {part: answer for core in cores for part, answer in core.items()}
        self._follow()
        for stream in asked:
            # The scheduler knows no more of those that have ended; what it said last is on its way.
            known = [told[part] for part in stream.parts if part in told]
            if stream.slots is not None and stream.slots.is_waiting:
                # None of its choices is in the core: how far it was is how far it is.
                stream.reported = Progress(stream.reported.tokens, scheduled=False)
            elif known:
                # It may have been taken up after the core said this.
                is_running = any(running for _, running in known) or self._is_taken_up(stream)
                stream.reported = Progress(sum(computed for computed, _ in known), scheduled=is_running)
