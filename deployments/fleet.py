"""The fleet: what is served, by name. What the HTTP ingress and the Python handle look a model up in."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.directory.known_instance import Instance
from deployments.routing.route import Route
from deployments.routing.router import PushRouter
from engines.contract import Capabilities, Engine
from engines.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is told of a served model.

    Attributes:
        name: What clients ask for.
        aliases: Other names for it.
        created_s: Unix time at which the router first knew it.
        ready: Its ready instances.
        instances: All its instances.
        capabilities: Those of its instances; the default ones until one is ready.
    """

    name: str
    aliases: tuple[str, ...]
    created_s: int
    ready: int
    instances: int
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        route: Its instances.
        engine: What answers: its operators, around the route.
        aliases: Other names for it.
        created_s: Unix time at which this process first knew it.
    """

    route: Route
    engine: Engine
    aliases: tuple[str, ...] = ()
    created_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """What clients ask for."""
        return self.route.name

    def card(self) -> ModelCard:
        """What is told of it, as it is now."""
        return ModelCard(
            name=self.name,
            aliases=self.aliases,
            created_s=self.created_s,
            ready=self.route.open_instances,
            instances=len(self.route.instances()),
            capabilities=self.engine.capabilities,
        )


class Fleet:
    """The served models.

    Args:
        name: The fleet's.
        router: Follows the instances of all of them.
        models: The models, in the order in which they are listed.

    Attributes:
        name: As given.
        models: As given.
    """

    def __init__(self, name: str, router: PushRouter, models: Sequence[Model]) -> None:
        self.name = name
        self.models = tuple(models)
        self._router = router
        self._by_name = {name: model for model in models for name in (model.name, *model.aliases)}

    def find(self, name: str) -> Model:
        """The model of a name or alias.

        Raises:
            ModelNotFound: It is not served.
        """
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFound(name, tuple(self._by_name))
        return model

    def cards(self) -> Sequence[ModelCard]:
        """What is served, as it is now."""
        return [model.card() for model in self.models]

    def instances(self) -> Sequence[Instance]:
        """Every instance of every model that is not gone, with its latest load."""
        return [instance for model in self.models for instance in model.route.instances()]

    @property
    def ready(self) -> bool:
        """Whether every model is."""
        return all(model.engine.ready for model in self.models)

    async def start(self) -> None:
        """Begins to follow the instances; returns when it knows which there are, ready or not."""
        await self._router.start()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Waits for what is under way, no longer than the deadline, then lets the instances go."""
        await self._router.stop(timeout_s)

    def check(self) -> None:
        """Returns while it hears of instances; having none is not its illness.

        Raises:
            RuntimeError: It does not.
        """
        self._router.check()
