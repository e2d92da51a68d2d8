"""LoRA adapters of one vLLM: loaded before a request that wants one reaches the core.

A request whose adapter cannot be loaded kills the core, which loads it in the middle of a step; asked to load it by
itself (`add_lora`), the core only refuses. So it is asked first, and what is loaded stays until no request has it.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.v1.engine.exceptions import EngineDeadError

from engines.adapters.adapter import Adapter
from engines.adapters.adapter_files import AdapterFiles, AdapterFilesError, read_adapter_files
from engines.adapters.residency import AdapterUse, ResidentAdapters
from engines.context import Context
from engines.errors import AdapterFailed, EngineDead, PenstockError, QueueFull
from engines.vllm.options import VllmOptions
from engines.vllm.scheduler import ADAPTER_PROBLEM, REMOVE_ADAPTER

logger = logging.getLogger(__name__)

_LEAVING_S = 30.0
"""How long the core may still have a request with an adapter after that has ended here."""
_POLL_S = 0.02
_PIECE_BYTES = 16 * 2**20


class VllmAdapters:
    """The adapters of one booted vLLM.

    Args:
        llm: The vLLM.
        adapters: All that its model has.
        options: The engine's.
        limit: How many are loaded at a time.
        most_waiting: How many requests may wait for theirs.
    """

    def __init__(
        self, llm: Any, adapters: Sequence[Adapter], options: VllmOptions, limit: int, most_waiting: int
    ) -> None:
        self._llm = llm
        self._options = options
        self._adapters = {adapter.name: adapter for adapter in adapters}
        # vLLM knows them by numbers, from 1 on.
        self._numbers = {name: number for number, name in enumerate(self._adapters, start=1)}
        self._loaded: dict[str, LoRARequest] = {}
        self._resident = ResidentAdapters(self._adapters.keys(), limit, self._load, self._unload, most_waiting)

    @property
    def resident(self) -> tuple[str, ...]:
        """Those that are loaded."""
        return self._resident.names

    def is_waiting(self, context: Context) -> bool:
        """Whether the request of this context waits for its adapter."""
        return self._resident.is_waiting(context)

    async def use(self, name: str, context: Context) -> tuple[LoRARequest, AdapterUse]:
        """Returns when the adapter is loaded: what vLLM is told of it, and what keeps it loaded until it is released.

        Raises:
            AdapterFailed: It cannot be loaded.
            QueueFull: Too many wait for theirs.
            Cancelled: The context was stopped.
        """
        use = await self._resident.use(name, context)
        return self._loaded[name], use

    async def look(self) -> None:
        """Looks at the files of those that are on this machine, and warns of what is wrong with them."""
        for adapter in self._adapters.values():
            try:
                await asyncio.to_thread(self._options.check_adapter, adapter)
            except AdapterFilesError as error:
                logger.warning("The adapter %s cannot be loaded, and requests for it will fail: %s", adapter, error)

    def close(self, error: PenstockError) -> None:
        """Loads nothing any more; whoever waits gets the error."""
        self._resident.close(error)

    @property
    def _max_rank(self) -> int:
        return int(self._llm.vllm_config.lora_config.max_lora_rank)

    async def _load(self, name: str) -> None:
        files = await asyncio.to_thread(self._ready_files, self._adapters[name])
        # vLLM's prefix cache goes by name and path: what other weights made of a prompt must not be found again.
        version = f"{name} {files.version}"
        request = LoRARequest(lora_name=version, lora_int_id=self._numbers[name], lora_path=str(files.folder))
        try:
            await self._llm.add_lora(request)
            problems: list[str] = await self._llm.collective_rpc(ADAPTER_PROBLEM, args=(request.lora_int_id,))
        except EngineDeadError:
            raise EngineDead("The engine died.") from None
        except Exception as error:
            await self._unload(name)  # Of what failed half way, something may be left.
            raise _failed(name, "the engine refuses it", f"{type(error).__name__}: {error}") from error
        problem = next(filter(None, problems), None)
        if problem is not None:
            await self._unload(name)
            raise _failed(name, problem)
        self._loaded[name] = request

    async def _unload(self, name: str) -> None:
        self._loaded.pop(name, None)
        until_s = asyncio.get_running_loop().time() + _LEAVING_S
        core, number = self._llm.engine_core, self._numbers[name]
        try:
            while not all(await core.call_utility_all_async(REMOVE_ADAPTER, number)):
                if asyncio.get_running_loop().time() > until_s:
                    raise QueueFull(f"The engine does not let go of the adapter {name!r}.", retry_after_s=1.0)
                # A request that was cancelled: the word of it is on its way.
                await asyncio.sleep(_POLL_S)
        except EngineDeadError:
            raise EngineDead("The engine died.") from None

    def _ready_files(self, adapter: Adapter) -> AdapterFiles:
        """The adapter's files, looked at, its weights in the system's cache. Blocks, also for a download.

        The core reads them between two steps of all its requests: for them it must not be a disk, or a network, that
        takes its time.

        Raises:
            AdapterFailed: It cannot be used.
        """
        try:
            # Not found on this machine, it is an id: vLLM returns what it could not download as it was.
            folder = Path(get_adapter_absolute_path(adapter.path))
        except Exception as error:
            raise _failed(adapter.name, "it cannot be downloaded", f"{type(error).__name__}: {error}") from error
        try:
            files = read_adapter_files(folder, self._max_rank)
            with files.weights.open("rb") as weights:
                while weights.read(_PIECE_BYTES):
                    pass
        except AdapterFilesError as error:
            raise _failed(adapter.name, str(error), str(folder)) from error
        except OSError as error:
            raise _failed(adapter.name, f"its weights cannot be read: {error.strerror}", str(folder)) from error
        return files


def _failed(name: str, why: str, detail: str = "") -> AdapterFailed:
    error = AdapterFailed(f"The adapter {name!r} cannot be loaded: {why}.")
    logger.warning("%s %s", error.message, detail)
    return error.hiding(detail) if detail else error
