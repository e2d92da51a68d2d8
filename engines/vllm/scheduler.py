"""What of ours runs in vLLM's core and in its workers, whose interfaces are not public: all of it is in this file.

- A request that goes on from token ids has them as *output* from the start: its scheduler, its grammar, its penalties,
  its limits and its seed stand where they stood on the engine that generated them. The core computes them together
  with the prompt.
- How far requests are, for those that have said nothing for long; and, before a step, which ones it takes up.
- An adapter is taken out only when no request in the core has it, which only the core knows: a request that was
  cancelled is there until the core hears of it.
- Whether an adapter's weights have the shapes of the model's: what is too small vLLM puts into a corner of its place.
- Pipeline parallel ranks on the CPU have a place for what the stage before them hands on.
- A seeded request whose prompt is computed in pieces draws nothing before its last piece. vLLM lets it draw and takes
  that back, which it cannot do on the CPU: its core dies.

The ids travel as `SamplingParams.extra_args`, which reach the scheduler and every worker.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from vllm.config import SchedulerConfig
from vllm.distributed.parallel_state import get_pp_group
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.model_manager import LoRAModelManager
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager
from vllm.version import __version__

from engines.errors import EngineFailed
from engines.vllm.step_record import StepWriter

WORKER_EXTENSION = f"{__name__}.WorkerExtension"
PREPARE_WORKER = "penstock_prepare"
PROGRESS = "penstock_progress"
REMOVE_ADAPTER = "penstock_remove_adapter"
ADAPTER_PROBLEM = "penstock_adapter_problem"

_GENERATED = "penstock_generated"
_CUDA_OFFSET_PER_DRAW = 4
"""By how much one draw moves a CUDA generator, as vLLM reckons (`GPUModelRunner._bookkeeping_sync`)."""


def with_generated(params: SamplingParams, token_ids: Sequence[int]) -> dict[str, Any]:
    """The `extra_args` of a request that goes on from these ids."""
    return {**(params.extra_args or {}), _GENERATED: list(token_ids)}


def check_core() -> None:
    """Returns when vLLM's core has everything that is used here; that of the workers is checked there.

    Raises:
        EngineFailed: This vLLM is another one; says what moved.
    """
    used = {
        Scheduler: ("add_request", "schedule", "_handle_blocked_waiting_request", "_get_local_prefix_cache_hit"),
        Request: ("append_output_token_ids", "take_prefill_stats"),
        StructuredOutputManager: ("accept_tokens",),
        PrefillStats: ("set", "finalize"),
        SchedulerConfig: ("get_scheduler_cls",),
        EngineCore: ("add_lora", "remove_lora"),
        LoRAModelManager: ("get_adapter", "_get_lora_layer_weights"),
    }
    fields = {
        SchedulerOutput: ("scheduled_new_reqs", "scheduled_cached_reqs"),
        NewRequestData: ("req_id",),
        CachedRequestData: ("resumed_req_ids",),
    }
    present = {f"{owner.__name__}.{name}": hasattr(owner, name) for owner, names in used.items() for name in names}
    for owner, names in fields.items():
        present |= {f"{owner.__name__}.{name}": name in owner.__annotations__ for name in names}
    _check(present)


def prepare_core(record: StepWriter) -> None:
    """Lets the core of this process, which is not made yet, take our scheduler and tell how far requests are.

    Args:
        record: Takes which requests its steps take up.
    """
    choose = SchedulerConfig.get_scheduler_cls

    # Not by `scheduler_cls`: which scheduler vLLM takes by itself is known here only, where its configuration is
    # complete, and from here it goes on to the workers, to which a class made here cannot go.
    def get_scheduler_cls(config: Any) -> type:
        taken = choose(config)
        return type(f"Resuming{taken.__name__}", (ResumingScheduler, taken), {"step_record": record})

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls
    setattr(EngineCore, PROGRESS, _progress)
    setattr(EngineCore, REMOVE_ADAPTER, _remove_adapter)


class ResumingScheduler:
    """Mixed into whichever scheduler vLLM takes.

    Attributes:
        step_record: Takes which requests its steps take up.
    """

    step_record: StepWriter

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's; who is taken up is noted before anything is computed, for that may be the end."""
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        resumed = output.scheduled_cached_reqs.resumed_req_ids
        if output.scheduled_new_reqs or resumed:
            self.step_record.add([*(new.req_id for new in output.scheduled_new_reqs), *resumed])
        return output

    def add_request(self, request: Any) -> None:
        """As vLLM's; what was generated elsewhere becomes output."""
        generated = _generated(request.sampling_params)
        if generated:
            request.prefill_stats = _ResumedPrefillStats()
            if request.structured_output_request is None:
                request.append_output_token_ids(generated)
        super().add_request(request)  # type: ignore[misc]

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        waited = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        if not super()._handle_blocked_waiting_request(request):  # type: ignore[misc]
            return False
        if waited and not _accept(self.structured_output_manager, request):  # type: ignore[attr-defined]
            # Fails this request, as one whose grammar does not compile.
            self.grammar_compile_error_reqs.add(request.request_id)  # type: ignore[attr-defined]
            return False
        return True

    def _get_local_prefix_cache_hit(self, request: Any) -> Any:
        found = super()._get_local_prefix_cache_hit(request)  # type: ignore[misc]
        if isinstance(request.prefill_stats, _ResumedPrefillStats) and request.num_preemptions <= 0:
            prompt_tokens = request.num_prompt_tokens
            request.prefill_stats.set(prompt_tokens, min(found[1], prompt_tokens), 0)
        return found


class _ResumedPrefillStats(PrefillStats):  # type: ignore[misc]
    """Those of the prompt alone.

    False to the scheduler, which otherwise sets them to what it found in the cache, and dies of it when that reaches
    beyond the prompt.
    """

    def __bool__(self) -> bool:
        return False


def _accept(manager: Any, request: Any) -> bool:
    """Gives a request whose grammar is ready its output, in the steps in which it was generated."""
    generated = _generated(request.sampling_params)
    constraint = request.structured_output_request
    position = 0
    # Where the reasoning ends, and the grammar begins, is found token by token.
    while position < len(generated) and not constraint.reasoning_ended:
        token = generated[position : position + 1]
        request.append_output_token_ids(token)
        if not manager.accept_tokens(request, token):
            return False
        position += 1
    rest = generated[position:]
    request.append_output_token_ids(rest)
    return bool(manager.accept_tokens(request, rest))


def _generated(params: Any) -> list[int]:
    extra = params.extra_args if params is not None else None
    return extra.get(_GENERATED, []) if extra else []


def _progress(core: Any, request_ids: list[str]) -> dict[str, tuple[int, bool]]:
    """Of each request that the scheduler knows: the tokens that it has computed, and whether it is running."""
    requests = core.scheduler.requests
    return {
        request_id: (request.num_computed_tokens, request.status == RequestStatus.RUNNING)
        for request_id in request_ids
        if (request := requests.get(request_id)) is not None
    }


def _remove_adapter(core: Any, adapter_id: int) -> bool:
    """Takes an adapter out, unless a request has it; whether it is out."""
    requests = core.scheduler.requests.values()
    if any(request.lora_request and request.lora_request.lora_int_id == adapter_id for request in requests):
        return False
    core.remove_lora(adapter_id)
    return True


class WorkerExtension:
    """Mixed into every worker by vLLM (`worker_extension_cls`)."""

    def penstock_prepare(self) -> None:
        """Lets the V1 model runner go on from token ids; the V2 runner does by itself: its seeds know the position.

        Raises:
            EngineFailed: This vLLM's runner is another one.
        """
        if getattr(self, "use_v2_model_runner", False):
            return
        runner = self.model_runner  # type: ignore[attr-defined]
        if runner.device.type == "cpu":
            _make_place_for_earlier_stages(runner)
        if runner.is_pooling_model:
            return
        parts = {
            "GPUModelRunner.input_batch.add_request": ("input_batch", "add_request"),
            "GPUModelRunner.input_batch.generators": ("input_batch", "generators"),
            "GPUModelRunner.discard_request_mask.np": ("discard_request_mask", "np"),
        }
        present = {name: hasattr(getattr(runner, owner, None), part) for name, (owner, part) in parts.items()}
        used = ("_sample", "_bookkeeping_sync")
        _check(present | {f"GPUModelRunner.{name}": callable(getattr(runner, name, None)) for name in used})
        runner.input_batch.add_request = _filling(runner.input_batch.add_request, runner)
        if runner.device.type == "cpu":
            _hold_discarded_draws(runner)

    def penstock_adapter_problem(self, adapter_id: int) -> str:
        """What of a loaded adapter does not fit the model; empty: nothing."""
        return _misfit(self.model_runner.lora_manager._adapter_manager, adapter_id)  # type: ignore[attr-defined]


def _make_place_for_earlier_stages(runner: Any) -> None:
    """Where a rank puts what the stage before it hands on.

    vLLM makes it when it tries the model out, which on the CPU it leaves out where nothing is compiled and the size of
    the KV cache is given; its first step would fail then.
    """
    _check({"GPUModelRunner.intermediate_tensors": hasattr(runner, "intermediate_tensors")})
    if runner.intermediate_tensors is None and not get_pp_group().is_first_rank:
        runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
        )


def _misfit(manager: Any, adapter_id: int) -> str:
    adapter = manager.get_adapter(adapter_id)
    applied = set()
    is_whole = True  # All of the model is in this worker.
    for name, module in manager.modules.items():
        weights = manager._get_lora_layer_weights(adapter, name)
        if weights is None:
            continue
        applied.add(id(weights))
        if not isinstance(module, BaseLinearLayerWithLoRA):
            continue
        is_whole = is_whole and module.tp_size == 1
        down, up = ([one] if torch.is_tensor(one) else one for one in (weights.lora_a, weights.lora_b))
        inputs = module.base_layer.input_size
        if any(one is not None and one.shape[-1] != inputs for one in down):
            return f"its weights for {name} are made for another model: that takes {inputs} numbers"
        if module.tp_size > 1 or len(up) != len(module.lora_b_stacked):
            continue
        for one, place in zip(up, module.lora_b_stacked, strict=True):
            if one is not None and one.shape[0] != place.shape[-2]:
                return f"its weights for {name} are made for another model: that gives {place.shape[-2]} numbers"
    left = [name for name, weights in adapter.loras.items() if id(weights) not in applied]
    # Of a model that is spread over workers each has a part; of experts, and by `target_modules`, some are left out.
    if left and is_whole and not (manager._is_moe or manager.lora_config.target_modules):
        return f"the model has no {left[0]}"
    return ""


def _filling(add_request: Callable[[Any], Any], runner: Any) -> Callable[[Any], Any]:
    """`InputBatch.add_request`, which is given each request before anything is made of its output."""

    def add(state: Any) -> Any:
        generated = _generated(state.sampling_params)
        # One that was preempted comes again, with its output.
        if generated and not state.output_token_ids:
            state.output_token_ids.extend(generated)
            if state.generator is not None:
                _draw(state.generator, len(generated), runner)
        return add_request(state)

    return add


def _draw(generator: torch.Generator, times: int, runner: Any) -> None:
    """Moves a generator on as the sampler does, which draws once per token."""
    if generator.device.type != "cpu":
        generator.set_offset(generator.get_offset() + _CUDA_OFFSET_PER_DRAW * times)
        return
    sampler = runner.sampler.topk_topp_sampler
    if sampler.forward == sampler.forward_cpu and not sampler.use_fp64_gumbel:
        torch.randint(0, 2**31, (times,), generator=generator, dtype=torch.long)
        return
    noise = torch.empty(
        runner.input_batch.vocab_size, dtype=torch.float64 if sampler.use_fp64_gumbel else torch.float32
    )
    for _ in range(times):
        noise.exponential_(generator=generator)


def _hold_discarded_draws(runner: Any) -> None:
    """Keeps the generators of requests that are in the middle of their prompt out of the sampler.

    It samples for them, too, and what it samples is discarded.
    """
    sample, keep_books = runner._sample, runner._bookkeeping_sync
    held: dict[int, torch.Generator] = {}

    def sample_without(*args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        if batch.generators:
            for index in np.nonzero(runner.discard_request_mask.np[: batch.num_reqs])[0].tolist():
                generator = batch.generators.pop(index, None)
                if generator is not None:
                    held[index] = generator
        return sample(*args, **kwargs)

    def keep_books_and_give_back(*args: Any, **kwargs: Any) -> Any:
        try:
            return keep_books(*args, **kwargs)
        finally:
            runner.input_batch.generators.update(held)
            held.clear()

    runner._sample, runner._bookkeeping_sync = sample_without, keep_books_and_give_back


def _check(present: dict[str, bool]) -> None:
    missing = [name for name, is_there in present.items() if not is_there]
    if missing:
        raise EngineFailed(
            f"vLLM {__version__} has no {', '.join(missing)}, which Penstock uses to go on from token ids "
            f"({__name__}). Install the version that Penstock names."
        )
