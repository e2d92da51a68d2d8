"""The files of an adapter in PEFT's format, looked at before any engine loads them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""In the order in which vLLM looks for them."""
_CONFIG_BYTES = 2**20
"""More than any configuration has."""


class AdapterFilesError(ValueError):
    """An adapter's files are not there, or cannot be used; the message goes on a sentence, and names no path."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter's folder.

    Attributes:
        folder: Where it is.
        rank: The highest rank of its matrices.
        weights: Its file of weights.
        version: Another one when its files have been replaced.
    """

    folder: Path
    rank: int
    weights: Path
    version: str


def is_local(path: str) -> bool:
    """Whether an adapter's path is a folder of this machine, and no id on a hub."""
    return path.startswith(("/", "./", "../", "~"))


def read_adapter_files(folder: Path, max_rank: int) -> AdapterFiles:
    """Looks at an adapter's folder. Blocks.

    Args:
        folder: Where it is.
        max_rank: The highest rank that the engine takes.

    Raises:
        AdapterFilesError: Something is missing or wrong.
    """
    if not folder.is_dir():
        raise AdapterFilesError("its folder does not exist")
    config = _config(folder / _CONFIG)
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterFilesError(f"it is no LoRA adapter: its peft_type is {str(kind)[:40]!r}")
    patterns = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else [patterns])]
    for rank in ranks:
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise AdapterFilesError(f"its {_CONFIG} says no rank (`r`)")
    rank = max(ranks)
    if rank > max_rank:
        raise AdapterFilesError(f"its rank is {rank}, and max_lora_rank {max_rank}")
    weights = next((file for name in _WEIGHTS if (file := folder / name).is_file()), None)
    if weights is None:
        raise AdapterFilesError(f"it has no {_WEIGHTS[0]}")
    try:
        times = [file.stat().st_mtime_ns for file in (folder / _CONFIG, weights)]
    except OSError as error:
        raise AdapterFilesError(f"its files cannot be read: {error.strerror}") from error
    return AdapterFiles(folder, rank, weights, version="-".join(f"{time:x}" for time in times))


def _config(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            raw = opened.read(_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise AdapterFilesError(f"it has no {_CONFIG}") from None
    except OSError as error:
        raise AdapterFilesError(f"its {_CONFIG} cannot be read: {error.strerror}") from error
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or len(raw) > _CONFIG_BYTES:
        raise AdapterFilesError(f"its {_CONFIG} is no JSON object")
    return config
