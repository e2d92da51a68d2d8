"""The ranks of an engine on a further node, started by vLLM's own executor, whose interface is not public."""

from multiprocessing.connection import wait

from vllm.usage.usage_lib import UsageContext
from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from engines.errors import EngineDead
from engines.registry import EngineSpec
from engines.vllm.arguments import spec_args
from engines.vllm.environment import child_environment
from engines.vllm.options import VllmOptions
from engines.vllm.orphans import ranks_end_with_host


class Ranks:
    """They meet the ranks of the other nodes, and work. Making them blocks for as long as all nodes boot.

    Raises:
        InvalidRequest: An option is wrong.
        Exception: Whatever vLLM raises where they cannot start.
    """

    def __init__(self, name: str, spec: EngineSpec, options: VllmOptions) -> None:
        self._name = name
        args = spec_args(spec, options)
        with child_environment(options, spec.part), ranks_end_with_host():
            config = args.create_engine_config(usage_context=UsageContext.ENGINE_CONTEXT, headless=True)
            # Watched here: its own watch tells of a death only when the others have ended, for which it waits.
            self._executor = MultiprocExecutor(config, monitor_workers=False)

    def ended(self) -> EngineDead:
        """Waits for the first of them to end."""
        processes = {rank.proc.sentinel: rank.proc for rank in self._executor.workers}
        first = processes[wait(list(processes))[0]]
        first.join()
        return EngineDead(f"The rank {first.name} of {self._name} ended (exit code {first.exitcode}).")
