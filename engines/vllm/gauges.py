"""How busy vLLM is, by its own scheduler."""

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import SchedulerStats

from engines.contract import Load


class Gauges:
    """The latest figures of the scheduler, one set per engine step.

    Attributes:
        steps: Steps so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.running = 0
        self.kv_use = 0.0

    def load(self, in_flight: int) -> Load:
        """The load, when so many requests are in flight; those that the scheduler has not started are queued."""
        if not in_flight:
            return Load()
        running = min(self.running, in_flight)
        return Load(running=running, queued=in_flight - running, kv_use=self.kv_use)

    def logger(self, vllm_config: Any, engine_index: int = 0) -> StatLoggerBase:
        """Makes vLLM's side of it; a factory as `AsyncLLM` takes it."""
        return _SchedulerLogger(self)


class _SchedulerLogger(StatLoggerBase):  # type: ignore[misc]
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self._gauges.steps += 1
            self._gauges.running = scheduler_stats.num_running_reqs
            self._gauges.kv_use = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        return None
