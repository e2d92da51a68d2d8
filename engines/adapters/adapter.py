"""A LoRA adapter, as a fleet file names it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

AdapterName = Annotated[str, StringConstraints(pattern=r"^[^\s/][^\s]{0,199}$")]


class Adapter(BaseModel):
    """One LoRA adapter of a model.

    Attributes:
        name: What clients ask for: a model of its own to them.
        path: The folder that PEFT's `save_pretrained` wrote (`adapter_config.json`, `adapter_model.safetensors`), on
            every node that has an instance; or a Hugging Face id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: AdapterName
    path: str = Field(min_length=1)
