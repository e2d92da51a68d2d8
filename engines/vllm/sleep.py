"""vLLM's sleep mode (https://docs.vllm.ai/en/latest/features/sleep_mode/), by `AsyncLLM`'s own interface.

On the CPU vLLM's workers give up nothing: the core pauses, and empties its caches.
"""

from collections.abc import Callable

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from engines.errors import EngineDead, EngineFailed

_DROPPED = 2
"""The level that drops the weights, which vLLM does not load again by itself."""


class Sleep:
    """The sleep of one booted vLLM.

    Args:
        llm: The vLLM; nobody asks anything of it from `begin` to the end of `end`.
        forget: Called once its KV cache is empty.
    """

    def __init__(self, llm: AsyncLLM, forget: Callable[[], None]) -> None:
        self._llm = llm
        self._forget = forget
        self._level = 0

    async def begin(self, level: int) -> None:
        """Falls asleep.

        Raises:
            EngineDead: The core is dead.
            EngineFailed: vLLM could not.
        """
        self._level = level
        try:
            # "wait", so that a request that the core was just told to abort is over by then, and nothing else is lost.
            await self._llm.sleep(level, mode="wait")
        except Exception as error:
            raise _failure("fall asleep", error) from error
        self._forget()

    async def end(self) -> None:
        """Wakes up.

        Raises:
            EngineDead: The core is dead.
            EngineFailed: vLLM could not.
        """
        llm = self._llm
        try:
            if self._level == _DROPPED:
                # The weights' memory first, and the cache's only once they are in it: both at once may be too much.
                await llm.wake_up(["weights"])
                await llm.collective_rpc("reload_weights")
                is_awake = await llm.wake_up(["kv_cache"])
            else:
                is_awake = await llm.wake_up()
        except Exception as error:
            raise _failure("wake", error) from error
        if not is_awake:
            raise EngineFailed("vLLM could not wake: a part of its memory stayed asleep.")


def _failure(what: str, error: Exception) -> EngineDead | EngineFailed:
    if isinstance(error, EngineDeadError):
        return EngineDead("The engine died.")
    return EngineFailed(f"vLLM could not {what}: {type(error).__name__}: {error}")
