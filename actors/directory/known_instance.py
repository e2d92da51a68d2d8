"""What the directory knows of one instance: one engine, living in one engine actor."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engines.contract import Capabilities, Load


class InstanceState(StrEnum):
    """Where an instance is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Instance:
    """One engine, living in one engine actor.

    Attributes:
        id: Stable label of the instance, unique in its fleet (`demo-0f3a`).
        model: Name of the model that it serves.
        node: Ray's id of the node that it runs on.
        incarnation: Grows with each actor that lived under this id.
        state: Where it is in its life.
        actor: Handle of its EngineActor; None until there is one.
        capabilities: What its engine can do; complete once ready.
        load: How busy it was when it last said.
        pid: Process id of the actor.
        since_s: Unix time of the last change of state.
        detail: What it is doing or why it failed, for a person to read.
    """

    id: str
    model: str
    node: str = ""
    incarnation: int = 0
    state: InstanceState = InstanceState.STARTING
    actor: Any = field(default=None, compare=False)
    capabilities: Capabilities = field(default_factory=Capabilities)
    load: Load = field(default_factory=Load)
    pid: int = 0
    since_s: float = 0.0
    detail: str = ""
