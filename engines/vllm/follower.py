"""vLLM's ranks on a further node of an engine: what `vllm serve --headless` runs there."""

import asyncio
import threading

from engines.errors import PenstockError
from engines.follower import Follower
from engines.registry import EngineSpec
from engines.vllm.boot import could_not_boot, import_vllm
from engines.vllm.few_collections import few_collections
from engines.vllm.options import VllmOptions


class VllmFollower(Follower):
    """The ranks of one node, as child processes of this one; the kernel kills them at its end."""

    def __init__(self, name: str, spec: EngineSpec, options: VllmOptions) -> None:
        self._name = name
        self._spec = spec
        self._options = options

    async def run(self) -> None:
        """Runs them to their end.

        Raises:
            PenstockError: Always; says which rank ended, or why they cannot start.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[PenstockError] = loop.create_future()

        def tell(error: PenstockError) -> None:
            if not ended.done():
                ended.set_result(error)

        def work() -> None:
            error = self._work()
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, error)

        # A thread of its own: the kernel kills the ranks when the thread that started them ends.
        threading.Thread(target=work, daemon=True).start()
        raise await ended

    def _work(self) -> PenstockError:
        """Runs them to their end; returns why."""
        try:
            with few_collections():
                import_vllm(self._name)
                from engines.vllm.ranks import Ranks

            return Ranks(self._name, self._spec, self._options).ended()
        except PenstockError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever vLLM raises is why they cannot start
            return could_not_boot(self._options, error)
