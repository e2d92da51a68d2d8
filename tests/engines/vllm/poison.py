"""A request that is the end of vLLM's core, in the first step that works on it."""

import os
import signal
from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from tests.engines.vllm.booted import POISON_SEED

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class Poison(LogitsProcessor):
    """Kills its process when a request with that seed joins the batch."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        """Takes what vLLM gives."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Changes nothing."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """It changes nothing."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Looks at who joins."""
        if batch_update is not None and any(params.seed == POISON_SEED for _, params, _, _ in batch_update.added):
            os.kill(os.getpid(), signal.SIGKILL)
