"""Engines by name: what a fleet file says in `engine:`.

Nothing heavy is imported until an engine is made: checking a fleet file with a vLLM engine in it must not import torch.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from engines.adapters.adapter import Adapter
from engines.contract import Engine
from engines.errors import InvalidRequest
from engines.follower import Follower
from engines.named_kinds import find_kind, load
from engines.options import EngineOptions


class NodePart(BaseModel):
    """The part of an engine that one of its nodes does.

    Attributes:
        node_rank: Which of its nodes: 0 is the one that takes the requests.
        address: That node's IP address.
        master_addr: The IP address of the node with rank 0, where the ranks meet.
        master_port: A port that is free there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node_rank: int
    address: str
    master_addr: str
    master_port: int


class EngineSpec(BaseModel):
    """What is needed to make an engine, in a form that crosses processes.

    Attributes:
        kind: Its name in the registry.
        model: The name under which the fleet serves its model.
        options: The options of that kind of engine, as its options class takes them.
        tensor_parallel_size: GPUs (or CPU ranks) that each layer of the model is spread over.
        pipeline_parallel_size: Stages that its layers are divided into, one after another; each has as many ranks.
        nnodes: Nodes that its ranks are divided among.
        part: Which part of it this node does, where there are several.
        adapters: LoRA adapters of the model.
        sleeps: Whether it is put to sleep at times, for which some engines boot otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    model: str
    options: dict[str, Any] = {}
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    nnodes: int = 1
    part: NodePart | None = None
    adapters: tuple[Adapter, ...] = ()
    sleeps: bool = False


@dataclass(frozen=True, slots=True)
class EngineKind:
    """Where an engine and its options live, as `module:name`.

    The engine's class is called as `cls(name, spec, options)`: its instance name, its EngineSpec, its parsed options.

    Attributes:
        engine: Its class.
        options: The class of its options.
        uses_gpus: Whether it has a use for GPUs.
        remote: Whether a provider does the work: it then needs no actor, and lives in the router replicas.
        follower: The class that works for one engine on a further node, called likewise; None: it lives on one node.
        sleeps: Whether it can sleep (`Engine.sleep`).
    """

    engine: str
    options: str
    uses_gpus: bool = False
    remote: bool = False
    follower: str | None = None
    sleeps: bool = False


KINDS: dict[str, EngineKind] = {
    "vllm": EngineKind(
        "engines.vllm.engine:VllmEngine",
        "engines.vllm.options:VllmOptions",
        uses_gpus=True,
        follower="engines.vllm.follower:VllmFollower",
        sleeps=True,
    ),
    "simulated": EngineKind(
        "engines.simulated.engine:SimulatedEngine", "engines.simulated.options:SimulatedOptions", sleeps=True
    ),
    "scripted": EngineKind(
        "engines.scripted.engine:ScriptedEngine",
        "engines.scripted.engine:ScriptedOptions",
        follower="engines.scripted.follower:ScriptedFollower",
    ),
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


def make_follower(name: str, spec: EngineSpec) -> Follower:
    """Makes what works for the engine of a spec on the node of `spec.part`; it does not run yet.

    Raises:
        InvalidRequest: There is no such engine, or it lives on one node.
        pydantic.ValidationError: The options are wrong.
    """
    follower = engine_kind(spec.kind).follower
    if follower is None:
        raise InvalidRequest(f"The engine {spec.kind} lives on one node.", param="nnodes")
    made = load(follower)(name, spec, parse_options(spec))
    assert isinstance(made, Follower)
    return made
