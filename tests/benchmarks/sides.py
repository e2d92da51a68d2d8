"""The two sides of the comparison: vLLM's own API server and Penstock, around one and the same engine."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.servers import HOST, ServerPlan, free_port

MODEL = "demo"
STOCK = "vLLM as it comes"
OTHER_CHECKOUT = "the other checkout"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """vLLM's options that both sides get, by the names that both know.

    Attributes:
        model: Directory of the model.
        kv_cache_bytes: Size of the KV cache.
        threads: Threads that the model computes with, not pinned to cores.
    """

    model: Path
    max_model_len: int = 2048
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 4096
    dtype: str = "float32"
    enforce_eager: bool = True
    enable_prefix_caching: bool = True
    seed: int = 0
    kv_cache_bytes: int = 512 * 2**20
    threads: int = 1

    def named(self) -> dict[str, Any]:
        """The options that are engine arguments."""
        return {
            "model": str(self.model),
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager,
            "enable_prefix_caching": self.enable_prefix_caching,
            "seed": self.seed,
            "generation_config": "vllm",
        }

    def environment(self) -> dict[str, str]:
        """The options that vLLM takes from the environment."""
        return {
            # Left to itself, vLLM's server pins its threads; Penstock's engine does not.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(self.threads),
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }


def vllm_plan(options: EngineOptions, *, stock: bool = False) -> ServerPlan:
    """vLLM's own server, without the logs and statistics per request, which Penstock does not make either.

    Args:
        options: Of the engine.
        stock: With the executor that vLLM picks on the CPU, a process more that spins. Otherwise with that of
            Penstock's engine, and of vLLM itself on a GPU: a single rank shares the process of the core.
    """
    port = free_port()
    command = [
        sys.executable,
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--host", HOST, "--port", str(port), "--served-model-name", MODEL),
        *("--disable-uvicorn-access-log", "--disable-log-stats"),
        *("--kv-cache-memory-bytes", str(options.kv_cache_bytes)),
    ]
    if not stock:
        command += ["--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"]
    for name, value in options.named().items():
        flag = "--" + name.replace("_", "-")
        if value is False:
            command.append(flag.replace("--", "--no-", 1))
        else:
            command += [flag] if value is True else [flag, str(value)]
    return ServerPlan(STOCK if stock else "vLLM", tuple(command), options.environment(), MODEL, port)


def penstock_plan(options: EngineOptions, directory: Path, *, checkout: Path | None = None) -> ServerPlan:
    """Penstock with one instance and one router replica; its fleet file goes into the directory.

    Args:
        options: Of the engine.
        directory: For files of this run.
        checkout: Another checkout of Penstock to run, with the packages of this one's environment; None: this one.
    """
    model = {
        "name": MODEL,
        "engine": "vllm",
        "options": options.named() | {"kv_cache_bytes": options.kv_cache_bytes, "cpu_threads": options.threads},
        "admission": {"max_running": 2 * options.max_num_seqs},
    }
    if checkout is None:
        return fleet_plan("Penstock", model, directory, options.environment())
    environment = options.environment() | {"PYTHONPATH": str(checkout.resolve())}
    return fleet_plan(OTHER_CHECKOUT, model, directory, environment)


def fleet_plan(name: str, model: dict[str, Any], directory: Path, environment: dict[str, str]) -> ServerPlan:
    """Penstock with one model and one router replica; its fleet file goes into the directory."""
    port = free_port()
    fleet = {"name": "bench", "models": [model], "router": {"replicas": 1}, "http": {"host": HOST, "port": port}}
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fleet, sort_keys=False))
    # The `penstock` script may not be installed, or be another checkout's.
    command = (sys.executable, "-c", "from clusters.cli import main; main()", "serve", str(path))
    return ServerPlan(name, command, environment, model["name"], port)


def simulated_options(streams: int, tokens: int) -> dict[str, Any]:
    """A simulated engine at speed zero, with room for so many streams of so many tokens at a time."""
    block_size = 1024  # few and large: the cache is not what is measured
    context_length = tokens + 1024
    return {
        "speed": "instant",
        "context_length": context_length,
        "max_num_seqs": streams,
        "block_size": block_size,
        "num_blocks": streams * -(-context_length // block_size),
        "prefix_caching": False,
    }


def simulated_plan(directory: Path, *, streams: int, tokens: int) -> ServerPlan:
    """Penstock around such an engine."""
    model = {
        "name": MODEL,
        "engine": "simulated",
        "options": simulated_options(streams, tokens),
        "admission": {"max_running": streams},
    }
    return fleet_plan("Penstock", model, directory, {})
