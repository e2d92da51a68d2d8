"""Options of the simulated engine, as a fleet file gives them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.options import EngineOptions


class StepTime(BaseModel):
    """How long one step of the engine takes, in seconds: a sum of four terms. See `engines.simulated.timing`.

    Attributes:
        base_s: Every step.
        prefill_token_s: Each prompt token of the step.
        decode_sequence_s: Each sequence that gets its next token.
        context_token_s: Each token that such a sequence looks back on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    base_s: float = Field(6e-3, ge=0)
    prefill_token_s: float = Field(32e-6, ge=0)
    decode_sequence_s: float = Field(20e-6, ge=0)
    context_token_s: float = Field(0.05e-6, ge=0)


class FaultOptions(BaseModel):
    """Requests that do the engine harm, on purpose; for tests. See `engines.simulated.faults`.

    Attributes:
        kill: A request with this text in its prompt kills the engine's process; empty: none does.
        hang: A request with this text makes the engine take no step any more; empty: none does.
        after_tokens: Tokens of its answer after which it does so; 0: in its first step. None: before it is accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kill: str = ""
    hang: str = ""
    after_tokens: Annotated[int, Field(ge=0)] | None = 0


class SimulatedOptions(EngineOptions):
    """Options of a simulated engine.

    Attributes:
        context_length: Most tokens of prompt and answer together.
        max_num_seqs: Sequences in one step.
        max_batched_tokens: Tokens in one step; a longer prompt is computed in several.
        block_size: Tokens in one block of the KV cache.
        num_blocks: Blocks of the KV cache; one sequence of full length must fit.
        prefix_caching: Whether blocks outlive their request, for prompts that begin alike.
        speed: Multiplies the speed of the step time; 0 or `instant`: no waiting at all.
        step_time: What a step takes at speed 1.
        embedding_size: Length of its embeddings; 0: it makes none, nor scores, nor pools anything.
        boot_s: What booting takes, in seconds.
        faults: Requests that do it harm; None: none do.
        max_loras: LoRA adapters that it has loaded at a time; the least recently used goes for another.
        lora_load_s: What loading one takes, in seconds.
        broken_loras: Adapters that cannot be loaded, by name.
        sleep_s: What falling asleep takes, in seconds.
        wake_s: What waking takes; None: it never wakes.
        wake_fails: Whether it fails to wake instead, after so long.
    """

    context_length: int = Field(8192, ge=16)
    max_num_seqs: int = Field(256, ge=1)
    max_batched_tokens: int = Field(2048, ge=1)
    block_size: int = Field(16, ge=1)
    num_blocks: int = Field(8192, ge=1)
    prefix_caching: bool = True
    speed: Annotated[float, Field(ge=0)] | Literal["instant"] = 1.0
    step_time: StepTime = StepTime()
    embedding_size: int = Field(64, ge=0, le=65536)
    boot_s: float = Field(0.0, ge=0)
    faults: FaultOptions | None = None
    max_loras: int = Field(4, ge=1)
    lora_load_s: float = Field(0.0, ge=0)
    broken_loras: list[str] = []
    sleep_s: float = Field(0.0, ge=0)
    wake_s: Annotated[float, Field(ge=0)] | None = 0.0
    wake_fails: bool = False

    @model_validator(mode="after")
    def _one_sequence_fits(self) -> Self:
        if self.num_blocks * self.block_size < self.context_length:
            raise ValueError(
                f"num_blocks ({self.num_blocks}) of block_size {self.block_size} do not hold one sequence of "
                f"context_length {self.context_length}"
            )
        return self
