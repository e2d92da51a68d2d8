"""How long a step takes, and waiting for so long.

    step_s = base_s + prefill_token_s * prompt tokens + decode_sequence_s * sequences + context_token_s * context tokens

The defaults are those of a model of 8 billion parameters in 16 bits on one H100 SXM (989 TFLOP/s dense in 16 bits,
3.35 TB/s, by NVIDIA's data sheet), from first principles:

- base: every step reads the weights once, 16 GB / 3.35 TB/s = 4.8 ms, and launches its kernels, about 1 ms.
- prefill: a token costs two FLOP per parameter, 16 GFLOP, at half of the peak rate: 32 microseconds.
- decode: the same FLOP hide behind the reading of the weights; what remains is sampling and bookkeeping, about 20
  microseconds a sequence.
- context: attention reads the keys and values of all earlier tokens. With 32 layers of 8 KV heads of 128 dimensions
  these are 2 * 32 * 8 * 128 * 2 bytes = 131 kB a token, at 80 % of the peak bandwidth: 0.05 microseconds.

Attention's own share of a prefill, which grows with the square of the prompt, is left out: below some ten thousand
tokens it is small beside the rest.
"""

import asyncio
from typing import Literal

from engines.simulated.options import StepTime


class StepClock:
    """Waits out steps.

    Timers of an event loop are late by up to a millisecond or more, so steps follow one after another on a clock of
    their own: what one wait overshoots is taken off the next.
    """

    def __init__(self, step_time: StepTime, speed: float | Literal["instant"]) -> None:
        self._step_time = step_time
        self._scale = 0.0 if speed in ("instant", 0) else 1.0 / float(speed)
        self._due_s = 0.0

    @property
    def instant(self) -> bool:
        """Whether steps take no time."""
        return not self._scale

    def step_s(self, prefill_tokens: int, sequences: int, context_tokens: int) -> float:
        """What a step takes, in seconds; see the module for the formula."""
        time = self._step_time
        return self._scale * (
            time.base_s
            + time.prefill_token_s * prefill_tokens
            + time.decode_sequence_s * sequences
            + time.context_token_s * context_tokens
        )

    def restart(self) -> None:
        """Begins a run of steps now, after a pause without any."""
        self._due_s = asyncio.get_running_loop().time()

    async def wait(self, step_s: float) -> None:
        """Returns when a step that follows the last one is over; gives the event loop a turn in any case."""
        now_s = asyncio.get_running_loop().time()
        self._due_s += step_s
        if self._due_s < now_s - step_s:
            self._due_s = now_s  # Hopelessly late: the process was busy. What is lost is lost.
        await asyncio.sleep(max(0.0, self._due_s - now_s))
