"""Engines by name: what a fleet file says in `engine:`.

Nothing heavy is imported until an engine is made: checking a fleet file with a vLLM engine in it must not import torch.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from engines.adapters.adapter import Adapter
from engines.contract import Engine
from engines.named_kinds import find_kind, load
from engines.options import EngineOptions


class EngineSpec(BaseModel):
    """What is needed to make an engine, in a form that crosses processes.

    Attributes:
        kind: Its name in the registry.
        model: The name under which the fleet serves its model.
        options: The options of that kind of engine, as its options class takes them.
        tensor_parallel_size: GPUs (or CPU ranks) that one engine spreads its model over.
        adapters: LoRA adapters of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    model: str
    options: dict[str, Any] = {}
    tensor_parallel_size: int = 1
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineKind:
    """Where an engine and its options live, as `module:name`.

    The engine's class is called as `cls(name, spec, options)`: its instance name, its EngineSpec, its parsed options.

    Attributes:
        engine: Its class.
        options: The class of its options.
        uses_gpus: Whether it has a use for GPUs.
        remote: Whether a provider does the work: it then needs no actor, and lives in the router replicas.
    """

    engine: str
    options: str
    uses_gpus: bool = False
    remote: bool = False


KINDS: dict[str, EngineKind] = {
    "vllm": EngineKind("engines.vllm.engine:VllmEngine", "engines.vllm.options:VllmOptions", uses_gpus=True),
    "simulated": EngineKind("engines.simulated.engine:SimulatedEngine", "engines.simulated.options:SimulatedOptions"),
    "scripted": EngineKind("engines.scripted.engine:ScriptedEngine", "engines.scripted.engine:ScriptedOptions"),
    "openai": EngineKind(
        "engines.remote.openai_engine:OpenAIEngine", "engines.remote.options:OpenAIOptions", remote=True
    ),
    "anthropic": EngineKind(
        "engines.remote.anthropic_engine:AnthropicEngine", "engines.remote.options:AnthropicOptions", remote=True
    ),
    "bedrock": EngineKind(
        "engines.remote.bedrock_engine:BedrockEngine", "engines.remote.options:BedrockOptions", remote=True
    ),
    "azure": EngineKind("engines.remote.openai_engine:AzureEngine", "engines.remote.options:AzureOptions", remote=True),
}


def engine_kind(name: str) -> EngineKind:
    """The kind of that name.

    Raises:
        InvalidRequest: There is none; the message names the nearest.
    """
    return find_kind(KINDS, "engine", name)


def options_type(kind: str) -> type[EngineOptions]:
    """The class that the options of a kind of engine are parsed with.

    Raises:
        InvalidRequest: There is no such engine.
    """
    options: type[EngineOptions] = load(engine_kind(kind).options)
    return options


def parse_options(spec: EngineSpec) -> EngineOptions:
    """The options of a spec, parsed.

    Raises:
        InvalidRequest: There is no such engine.
        pydantic.ValidationError: The options are wrong.
    """
    return options_type(spec.kind).model_validate(spec.options)


def make_engine(name: str, spec: EngineSpec) -> Engine:
    """Makes the engine of a spec; it is not started.

    Raises:
        InvalidRequest: There is no such engine.
        pydantic.ValidationError: The options are wrong.
    """
    options = parse_options(spec)
    engine = load(engine_kind(spec.kind).engine)(name, spec, options)
    assert isinstance(engine, Engine)
    return engine
