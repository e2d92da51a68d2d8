"""Options of a vLLM engine, as the fleet file gives them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from engines.adapters.adapter import Adapter
from engines.adapters.adapter_files import is_local, read_adapter_files
from engines.options import EngineOptions

DEMO_MODEL = "demo"
_LIBRARIES_BYTES = round(1.1 * 2**30)
"""About what the two processes of an engine (its host and vLLM's core) take for the libraries that they import."""
_CPU_KV_BYTES = 256 * 2**20
"""What the KV cache takes on the CPU unless it is told otherwise."""
_LORA_RANK = 16
"""vLLM's own highest rank of an adapter."""
_GPU_SHARE = 0.9
"""How much of its share an engine takes; vLLM's own default of a whole GPU."""


class VllmOptions(EngineOptions):
    """What one vLLM engine runs. None means vLLM's own default.

    Attributes:
        model: A path, a Hugging Face id, or `demo` for the small model that comes with Penstock.
        tokenizer: A path or Hugging Face id, when it is not the model's.
        revision: Branch, tag or commit of the model on Hugging Face.
        dtype: Type of the weights and activations.
        quantization: Method of the weights' quantization; None: as the model's configuration says.
        max_model_len: Longest context, prompt and answer together, in tokens.
        gpu_memory_utilization: Share of a GPU's memory that the engine takes.
        kv_cache_bytes: Size of the KV cache on each rank, in bytes. None: what fits on a GPU, 256 MiB on the CPU.
        cpu_threads: Threads that one rank computes with on the CPU, not pinned to cores. None: `OMP_NUM_THREADS` where
            it is set (Ray sets it to the CPUs that the actor reserves), else half of the cores.
        max_num_seqs: Most sequences in one step.
        max_num_batched_tokens: Most tokens in one step.
        enable_prefix_caching: Whether prompts share the KV cache of their common beginning.
        enforce_eager: Runs the model without compiling it.
        seed: Seed of the engine's own random numbers.
        trust_remote_code: Runs code that comes with the model.
        runner: Whether the model generates or pools (embeddings); `auto` decides by its architecture.
        convert: Adapter that turns a generating model into a pooling one.
        generation_config: Where the sampling defaults come from: `auto` (the model), `vllm` (none), or a folder.
        tool_parser: vLLM's parser of this model's tool calls (`hermes`, ...); without it tools are refused.
        reasoning_parser: vLLM's parser of this model's reasoning (`deepseek_r1`, `qwen3`, ...).
        chat_template: Path of a chat template that replaces the model's own.
        chat_template_kwargs: Defaults of what requests pass to the chat template.
        free_grammars: Whether requests may bring free-form grammars (EBNF, Lark), by themselves or inside structural
            tags. Off, because the cost of a token that they allow is only known by trying.
        guided_compile_s: Seconds that compiling a request's schema, regex or choice may take with half of the machine's
            cores, at most 8; what takes longer is refused. Others' wait for theirs grows with it.
        token_cache_bytes: Most memory, in bytes, for the token ids of earlier chats and their texts, so that only what
            is new of a history is tokenized. 0: none are kept.
        max_loras: LoRA adapters that are loaded at a time; the least recently used goes for another. Memory is taken
            for as many, or as many as the model has.
        max_lora_rank: Highest rank of an adapter; the memory is for adapters of this rank. None: 16.
        engine_args: Any other argument of vLLM's `AsyncEngineArgs`, by name. Wins over the options above.
    """

    packages = {"vllm": "`pip install 'penstock[cpu]'`, or `penstock[gpu]` on a machine with a GPU"}

    model: str = Field(DEMO_MODEL, min_length=1)
    tokenizer: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    quantization: str | None = None
    max_model_len: int | None = Field(None, ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    kv_cache_bytes: int | None = Field(None, ge=2**20)
    cpu_threads: int | None = Field(None, ge=1)
    max_num_seqs: int | None = Field(None, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=1)
    enable_prefix_caching: bool | None = None
    enforce_eager: bool = False
    seed: int | None = Field(None, ge=0)
    trust_remote_code: bool = False
    runner: Literal["auto", "generate", "pooling"] = "auto"
    convert: Literal["auto", "none", "embed", "classify"] = "auto"
    generation_config: str = "auto"
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    free_grammars: bool = False
    guided_compile_s: float = Field(1.0, gt=0, le=60)
    token_cache_bytes: int = Field(32 * 2**20, ge=0)
    max_loras: int = Field(4, ge=1)
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = None
    engine_args: dict[str, Any] = {}

    def memory_bytes(self, ranks: int) -> int:
        """Libraries and KV cache, in bytes."""
        return _LIBRARIES_BYTES + (self.kv_cache_bytes or _CPU_KV_BYTES) * ranks

    def check_adapter(self, adapter: Adapter) -> None:
        """Looks at its folder, if it has one on this machine."""
        if is_local(adapter.path):
            read_adapter_files(Path(adapter.path).expanduser(), self.max_lora_rank or _LORA_RANK)

    @classmethod
    def on_gpu_share(cls, share: float) -> Mapping[str, Any]:
        """VLLM takes what it is told of the whole GPU, whoever else is on it."""
        return {"gpu_memory_utilization": round(_GPU_SHARE * share, 3)}
