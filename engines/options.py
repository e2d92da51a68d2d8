"""Options of an engine, and what an engine with them needs of its machine."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from engines.adapters.adapter import Adapter

_MIB = 2**20


class EngineOptions(BaseModel):
    """Base of every kind's options. Importing it, and checking with it, costs nothing that the engine itself imports.

    Attributes:
        packages: What the engine imports that may not be installed, and what to do then, by the package's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    packages: ClassVar[Mapping[str, str]] = {}

    def memory_bytes(self, ranks: int) -> int:
        """About what one engine takes of a machine without accelerators, without its weights; on the low side.

        Args:
            ranks: Processes that the model is spread over.
        """
        return 200 * _MIB

    def check_adapter(self, adapter: Adapter) -> None:
        """Returns if an engine with these options could load it, as far as its files on this machine tell. Blocks.

        Raises:
            AdapterFilesError: It could not.
        """

    @classmethod
    def on_gpu_share(cls, share: float) -> Mapping[str, Any]:
        """The options with which an engine keeps to a share of a GPU, from 0 to 1."""
        return {}
