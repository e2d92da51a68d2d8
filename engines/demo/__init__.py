"""The demo model: a very small language model, trained from nothing by this package.

Importing this package loads neither torch nor the weights.
"""

from pathlib import Path

MODEL_PATH: Path = Path(__file__).parent / "model"
"""Directory of the trained model, in the layout that vLLM and transformers load."""

__all__ = ["MODEL_PATH"]
