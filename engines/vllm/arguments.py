"""Our options in vLLM's words: its engine arguments."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.executor import Executor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from engines.errors import InvalidRequest
from engines.nearest import did_you_mean
from engines.registry import EngineSpec, NodePart
from engines.vllm.environment import threads_bound
from engines.vllm.kv_events import events_config
from engines.vllm.options import DEMO_MODEL, VllmOptions
from engines.vllm.scheduler import WORKER_EXTENSION

CPU_KV_CACHE_BYTES = 256 * 2**20
"""The CPU's default KV cache. vLLM's own takes most of the machine's memory, which no two engines can do."""

_RESERVED = {
    "tensor_parallel_size": "set `tensor_parallel_size` of the model, so that the fleet reserves its GPUs",
    "pipeline_parallel_size": "set `pipeline_parallel_size` of the model, so that the fleet reserves its GPUs",
    "nnodes": "set `nnodes` of the model, so that the fleet reserves its nodes",
    **dict.fromkeys(("node_rank", "master_addr", "master_port"), "the instance knows its nodes"),
    "model": "set the option `model`",
    "worker_extension_cls": "it is Penstock's own",
    "enable_lora": "give the model its `adapters`",
    "max_loras": "set the option `max_loras`",
    "max_cpu_loras": "as many are kept as `max_loras` says",
    "max_lora_rank": "set the option `max_lora_rank`",
    "enable_sleep_mode": "give the model its `sleep`",
    "allowed_media_domains": "what is fetched, the routers fetch: set `attachments.urls` of the model",
    "allowed_local_media_path": "files of the engine's machine are not for callers to read",
}


def engine_args(
    options: VllmOptions,
    tensor_parallel_size: int,
    pipeline_parallel_size: int = 1,
    *,
    adapters: int = 0,
    nnodes: int = 1,
    part: NodePart | None = None,
    sleeps: bool = False,
) -> AsyncEngineArgs:
    """The arguments of vLLM for these options.

    Args:
        options: The options.
        tensor_parallel_size: Ranks of each stage.
        pipeline_parallel_size: Stages.
        adapters: How many LoRA adapters are loaded at a time.
        nnodes: Nodes that the ranks are divided among.
        part: Which of them this is, where there are several.
        sleeps: Whether it is put to sleep at times.

    Raises:
        InvalidRequest: An argument is not vLLM's, or is set elsewhere; or vLLM cannot spread so.
    """
    is_cpu = current_platform.is_cpu()
    model, tokenizer = options.model, options.tokenizer
    if model == DEMO_MODEL:
        from engines.demo import MODEL_PATH

        model = str(MODEL_PATH)
    arguments: dict[str, Any] = {
        "model": model,
        "tokenizer": tokenizer,
        "revision": options.revision,
        "dtype": options.dtype,
        "quantization": options.quantization,
        "max_model_len": options.max_model_len,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "kv_cache_memory_bytes": options.kv_cache_bytes or (CPU_KV_CACHE_BYTES if is_cpu else None),
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enable_prefix_caching": options.enable_prefix_caching,
        "enforce_eager": options.enforce_eager,
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
        "runner": options.runner,
        "convert": options.convert,
        "generation_config": options.generation_config,
        "reasoning_parser": options.reasoning_parser,
        "tensor_parallel_size": tensor_parallel_size,
        "pipeline_parallel_size": pipeline_parallel_size,
        "distributed_executor_backend": _executor(tensor_parallel_size * pipeline_parallel_size),
        "worker_extension_cls": WORKER_EXTENSION,
        # One backend for validation and for use: with `auto`, the first request decides for all later ones which
        # backend compiles them, whatever they were validated for.
        "structured_outputs_config": {"backend": "xgrammar"},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if nnodes > 1:
        arguments |= _node_arguments(options, tensor_parallel_size * pipeline_parallel_size, nnodes, part)
    if sleeps and current_platform.is_sleep_mode_available():
        # Where it is not, as on the CPU, the core pauses and empties its caches, and the workers keep what they have.
        arguments["enable_sleep_mode"] = True
    if adapters:
        arguments |= _lora_arguments(adapters, options.max_lora_rank)
    # Of several ranks of data each would publish at an endpoint of its own, which vLLM has no name for here.
    is_one_cache = options.engine_args.get("data_parallel_size", 1) == 1
    if options.enable_prefix_caching is not False and options.runner != "pooling" and is_one_cache:
        arguments["kv_events_config"] = events_config()
    _check_names(options.engine_args)
    arguments |= options.engine_args
    # The one section that vLLM takes as a dictionary on its command line, and here does not.
    arguments["structured_outputs_config"] = StructuredOutputsConfig(**arguments["structured_outputs_config"])
    return AsyncEngineArgs(**arguments)


def spec_args(spec: EngineSpec, options: VllmOptions) -> AsyncEngineArgs:
    """The arguments of vLLM for an engine, as `engine_args` makes them: the same on each of its nodes."""
    return engine_args(
        options,
        spec.tensor_parallel_size,
        spec.pipeline_parallel_size,
        adapters=loaded_adapters(spec, options),
        nnodes=spec.nnodes,
        part=spec.part,
        sleeps=spec.sleeps,
    )


def loaded_adapters(spec: EngineSpec, options: VllmOptions) -> int:
    """How many LoRA adapters an engine has loaded at a time."""
    return min(options.max_loras, len(spec.adapters))


def _node_arguments(options: VllmOptions, world_size: int, nnodes: int, part: NodePart | None) -> dict[str, Any]:
    if part is None:
        raise InvalidRequest("An engine over several nodes is made by an instance of a fleet.", param="nnodes")
    if current_platform.is_cpu() and world_size != nnodes:
        # It finds out which ranks share a node by the number of devices (`MessageQueue.
        # create_from_process_group_single_reader`), and the CPU is one.
        raise InvalidRequest(
            f"On the CPU vLLM has one rank on each of several nodes: set nnodes to {world_size}, or leave it out.",
            param="nnodes",
        )
    for name in ("data_parallel_size", "prefill_context_parallel_size"):
        if options.engine_args.get(name, 1) != 1:
            raise InvalidRequest(
                f"{name!r} makes more ranks, for which an instance over several nodes has no GPUs: leave it out.",
                param=f"options.engine_args.{name}",
            )
    return {
        "nnodes": nnodes,
        "node_rank": part.node_rank,
        "master_addr": part.master_addr,
        "master_port": part.master_port,
    }


def _lora_arguments(adapters: int, max_rank: int | None) -> dict[str, Any]:
    # On the CPU vLLM looks the weights of each token up by the number of its adapter's slot, which is -1 for a token of
    # the base model: in a step that has both, that is the last slot. One that nothing is ever put into holds zeros. The
    # kernels for GPUs leave such tokens out.
    slots = adapters if current_platform.is_cuda_alike() else adapters + 1
    # As many in the host's memory as in slots: what vLLM would take out of it, it would load again in the middle of a
    # step, and die where that fails. Which are loaded is decided here (`engines.vllm.adapters`).
    arguments: dict[str, Any] = {"enable_lora": True, "max_loras": slots, "max_cpu_loras": slots}
    return arguments if max_rank is None else arguments | {"max_lora_rank": max_rank}


def _executor(ranks: int) -> str | type[Executor]:
    """Where the ranks run: in the core's process if there is one, else in children of it.

    Left to itself, vLLM would reach for Ray inside of a Ray actor; and on the CPU it moves a single rank to a process
    of its own, only to set the OpenMP environment there. Ours is set before the core starts (`child_environment`), so
    the two need not spin for each other at every step: 1.4 times the tokens per second with 8 requests on two cores,
    and one process less. Given as a class, because vLLM overrules the name.
    """
    if ranks > 1 or (current_platform.is_cpu() and threads_bound()):
        return "mp"
    return UniProcExecutor if current_platform.is_cpu() else "uni"


def _check_names(given: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(AsyncEngineArgs) if not field.name.startswith("_")]
    for name in given:
        param = f"options.engine_args.{name}"
        if name in _RESERVED:
            raise InvalidRequest(f"{name!r} does not belong in engine_args: {_RESERVED[name]}.", param=param)
        if name not in known:
            raise InvalidRequest(f"vLLM has no engine argument {name!r}.{did_you_mean(name, known)}", param=param)


def chat_template(options: VllmOptions) -> str | None:
    """The text of the configured chat template, or None for the model's own.

    Raises:
        InvalidRequest: The file cannot be read.
    """
    if options.chat_template is None:
        return None
    try:
        return Path(options.chat_template).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"The chat template {options.chat_template!r} cannot be read: {error.strerror}.",
            param="options.chat_template",
        ) from error
