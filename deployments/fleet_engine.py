"""The whole fleet seen as one engine: what the HTTP ingress and the Python handle talk to."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from actors.directory.known_instance import Instance
from engines.contract import Capabilities, PushEngine


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One served model.

    Attributes:
        name: What clients ask for.
        aliases: Other names for it.
        created_s: Unix time at which the router first knew it.
        ready: Its ready instances.
        instances: All its instances.
        capabilities: Those of its instances; empty ones until one is ready.
    """

    name: str
    aliases: tuple[str, ...]
    created_s: int
    ready: int
    instances: int
    capabilities: Capabilities


class FleetEngine(PushEngine):
    """An engine around all instances of all models.

    `request.model` may be a name or an alias. `ready` is true when every model has a ready instance.
    """

    @abstractmethod
    def models(self) -> Sequence[ModelCard]:
        """What is served, in the order of the fleet file."""

    @abstractmethod
    def instances(self) -> Sequence[Instance]:
        """Every instance that is not gone, with its latest load."""
