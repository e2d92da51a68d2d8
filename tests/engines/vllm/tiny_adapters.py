"""LoRA adapters of the demo model, with random weights, in PEFT's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from engines.adapters.adapter import Adapter

LAYERS, HIDDEN, HEADS = 4, 128, 256
"""Of the demo model: layers, and the sizes that go into its attention and come out of it."""


def adapter(folder: Path, name: str, **changes: Any) -> Adapter:
    """An adapter that `make` has written."""
    make(folder / name, **changes)
    return Adapter(name=name, path=str(folder / name))


def make(
    folder: Path,
    *,
    seed: int = 0,
    rank: int = 8,
    layers: range = range(LAYERS),
    modules: tuple[str, ...] = ("self_attn.q_proj", "self_attn.v_proj"),
    inputs: int = HIDDEN,
    outputs: int = HEADS,
    config: dict[str, Any] | None = None,
) -> None:
    """Writes one; what it makes of the answers is nonsense, and the same each time.

    Args:
        folder: Where.
        seed: Of its weights.
        rank: Of its matrices.
        layers: Which layers it changes.
        modules: Which modules of them.
        inputs: Numbers that go into a module.
        outputs: Numbers that come out of it.
        config: What its configuration says besides.
    """
    folder.mkdir(parents=True)
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, "bias": "none"}
    said["target_modules"] = [module.rpartition(".")[2] for module in modules]
    (folder / "adapter_config.json").write_text(json.dumps(said | (config or {})))
    random = np.random.default_rng(seed)
    weights = {}
    for layer in layers:
        for module in modules:
            name = f"base_model.model.model.layers.{layer}.{module}"
            down, up = random.normal(size=(rank, inputs)), random.normal(size=(outputs, rank))
            weights[f"{name}.lora_A.weight"] = (down / np.sqrt(inputs)).astype(np.float32)
            weights[f"{name}.lora_B.weight"] = (up / np.sqrt(rank)).astype(np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
