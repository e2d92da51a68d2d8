"""vLLM's frontend, below its public interface.

`AsyncLLM.generate` makes a queue and a task for each request and wakes it for each token; here vLLM's output handler
hands its outputs straight to a stream. What that takes of vLLM without being promised is in this file; what it takes of
vLLM's core is in `engines.vllm.scheduler`.

- `AsyncLLM._run_output_handler`, `output_handler`: the task that `generate` would start, and what ends it.
- `AsyncLLM.check_admission`, `input_processor.assign_request_id`: what `AsyncLLM.add_request` does before it registers.
- `output_processor.add_request`: takes a stream as the request's collector; `add_request` of AsyncLLM makes its own.
- `output_processor.request_states`: who is registered, and where a choice that goes on gets its detokenizer.
- `output_processor.abort_requests`, `engine_core.add_request_async`, `engine_core.abort_requests_async`: both ends of a
  request, one by one, because sending may fail after it was registered, and aborting must not wait.
- `log_stats`: figures that vLLM's frontend would add up for each token, and nobody reads.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from copy import copy
from typing import Any

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.parallel_sampling import ParentRequest

from engines.errors import Cancelled
from engines.vllm.failures import failure, refusal
from engines.vllm.resuming import Start
from engines.vllm.slots import RequestSlots, engine_slots
from engines.vllm.streaming import VllmStream


class Frontend:
    """Registers requests with vLLM, sends them to its core, and takes them back.

    Args:
        llm: A booted vLLM.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        # The scheduler's figures are wanted, those for each token are not.
        llm.log_stats = llm.output_processor.log_stats = False
        self._slots = engine_slots(llm.vllm_config.scheduler_config.max_num_seqs)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def core(self) -> Any:
        """VLLM's client of its core."""
        return self._llm.engine_core

    @property
    def requests(self) -> int:
        """How many are registered; each choice counts."""
        return len(self._llm.output_processor.request_states)

    def listen(self) -> None:
        """Starts to hand outputs to their streams."""
        self._llm._run_output_handler()

    def stop_listening(self) -> None:
        """Hands out no more outputs."""
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()

    def detokenizer(self, core: EngineCoreRequest) -> IncrementalDetokenizer:
        """A new detokenizer for a choice of the request."""
        return IncrementalDetokenizer.from_new_request(self._llm.renderer.tokenizer, core)

    def register(
        self, core: EngineCoreRequest, stream: VllmStream, n: int, starts: Mapping[int, Start]
    ) -> list[EngineCoreRequest]:
        """Lets vLLM's output handler know the request, with the stream as its collector.

        Args:
            core: The request.
            stream: Takes its outputs.
            n: Its choices.
            starts: Where those that have not ended go on, by index.

        Returns:
            What is to be sent to the core: one request for each choice that has not ended.

        Raises:
            PenstockError: vLLM takes no more.
        """
        processor = self._llm.output_processor
        self._llm.input_processor.assign_request_id(core)
        stream.request_id = core.request_id
        try:
            self._llm.check_admission(len(starts), core.request_id)
        except Exception as error:
            raise refusal(error, param=None, context_length=self._llm.model_config.max_model_len) from error
        if n == 1:
            core.sampling_params = starts[0].params(core.sampling_params)
            processor.add_request(core, None, None, 0, stream)
            starts[0].place(processor.request_states[core.request_id])
            stream.parts = [core.request_id]
            return [core]
        # Only now: vLLM refuses several choices of greedy decoding, which are dull, but what was asked for.
        core.sampling_params.n = n
        parent = ParentRequest(core)
        parts = []
        for index, start in starts.items():
            part = copy(core)
            part.request_id, params = parent.get_child_info(index)
            part.sampling_params = start.params(params)
            processor.add_request(part, None, parent, index, stream)
            start.place(processor.request_states[part.request_id])
            parts.append(part)
        stream.parts = [part.request_id for part in parts]
        stream.slots = RequestSlots(self._slots)
        return parts

    async def send(self, parts: list[EngineCoreRequest], stream: VllmStream) -> None:
        """Hands a registered request to vLLM's core; where that fails, the stream is told.

        Returns once the core has it, or, if it has several choices, at once: each is sent when it has a slot.
        """
        if stream.slots is None:
            await self._send(parts, stream)
        else:
            self._soon(self._send_in_turn(parts, stream, stream.slots))

    async def _send_in_turn(self, parts: list[EngineCoreRequest], stream: VllmStream, slots: RequestSlots) -> None:
        for part in parts:
            if not await slots.take():
                return
            await self._send([part], stream)

    async def _send(self, parts: list[EngineCoreRequest], stream: VllmStream) -> None:
        states = self._llm.output_processor.request_states
        try:
            for part in parts:
                # Aborted in the meantime: the core would never hear of its end.
                if part.request_id in states:
                    await self._llm.engine_core.add_request_async(part)
        except asyncio.CancelledError:
            stream.abandon(Cancelled("The request was cancelled."))
            raise
        except Exception as error:  # noqa: BLE001 - the sink waits, if the engine answered before it failed
            stream.abandon(failure(error))

    def abort_soon(self, stream: VllmStream) -> None:
        """Takes a request back."""
        # Not at once: a sink may cancel from inside of an output, and vLLM's output handler, which is in the middle of
        # that request then, does not survive its disappearance.
        asyncio.get_running_loop().call_soon(self._abort, stream.request_id)

    def _abort(self, request_id: str) -> None:
        aborted = self._llm.output_processor.abort_requests((request_id,), internal=True)
        if aborted and not self._llm.errored:
            self._soon(self._tell_core(aborted))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_core(self, aborted: list[str]) -> None:
        # A core that is dead by now runs nothing any more, which is what is wanted.
        with suppress(EngineDeadError):
            await self._llm.engine_core.abort_requests_async(aborted)
