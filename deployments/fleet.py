"""The fleet: what is served, by name. What the HTTP ingress and the Python handle look a model up in."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from actors.directory.known_instance import Instance
from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.routing.held_requests import HeldRequests
from deployments.routing.placements import Placements
from deployments.routing.route import Route
from deployments.routing.router import PushRouter
from engines.contract import Capabilities, Engine
from engines.errors import ModelNotFound, PenstockError
from engines.operators.fallback import Fallback

logger = logging.getLogger(__name__)

_PROVIDERS_S = 2.0
"""What the providers get to answer before the fleet starts without them."""
_START_AGAIN_S = 30.0
"""A provider that refuses our key is asked again after so long: somebody may have mended it."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is told of a served model.

    Attributes:
        name: What clients ask for.
        aliases: Other names for it.
        parent: Of a LoRA adapter, the name of its model.
        created_s: Unix time at which the router first knew it.
        ready: Its ready instances; of a model made of others, the ready ones of those.
        instances: All its instances, or others.
        capabilities: Those of its instances; the default ones until one is ready.
        fill_in_the_middle: Whether it completes texts that have a suffix, too.
        status: `ready`; `asleep`: it has no instance now, and requests wait until one has booted; `unavailable`.
    """

    name: str
    aliases: tuple[str, ...]
    created_s: int
    ready: int
    instances: int
    capabilities: Capabilities
    parent: str | None = None
    fill_in_the_middle: bool = False
    status: Literal["ready", "asleep", "unavailable"] = "ready"


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        name: What clients ask for.
        engine: What answers: its operators, around its source.
        source: Its route, where it has instances; a provider's engine; or a fallback or pool of other models.
        aliases: Other names for it.
        created_s: Unix time at which this process first knew it.
        parent: Of a LoRA adapter, the name of its model, whose instances answer; None: it is none.
        fill_in_the_middle: How it is shown the text before a gap and after it; None: it fills none.
        parts: The models that it is made of, if it is.
        may_sleep: Whether it may have no instances.
    """

    name: str
    engine: Engine
    source: Engine
    aliases: tuple[str, ...] = ()
    created_s: int = field(default_factory=lambda: int(time.time()))
    parent: str | None = None
    fill_in_the_middle: FillInTheMiddle | None = None
    parts: tuple["Model", ...] = ()
    may_sleep: bool = False

    @property
    def is_asleep(self) -> bool:
        """Whether it is not ready, but wakes up for a request."""
        if self.parts:
            return not self.engine.ready and any(part.is_asleep for part in self.parts)
        return self.may_sleep and isinstance(self.source, Route) and self.source.is_asleep

    @property
    def serves(self) -> bool:
        """Whether a request is served, be it after a boot."""
        return self.engine.ready or self.is_asleep

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask for."""
        return (self.name, *self.aliases)

    def card(self) -> ModelCard:
        """What is told of it, as it is now."""
        source = self.source
        if isinstance(source, Route):
            ready, instances = source.open_instances, len(source.instances())
        else:
            engines = source.members if isinstance(source, Fallback) else (source,)
            ready, instances = sum(engine.ready for engine in engines), len(engines)
        return ModelCard(
            name=self.name,
            aliases=self.aliases,
            created_s=self.created_s,
            ready=ready,
            instances=instances,
            capabilities=self.engine.capabilities,
            parent=self.parent,
            fill_in_the_middle=self.fill_in_the_middle is not None,
            status="ready" if self.engine.ready else "asleep" if self.is_asleep else "unavailable",
        )

    @property
    def is_remote(self) -> bool:
        """Whether a provider answers."""
        return not isinstance(self.source, Route | Fallback)

    def instances(self) -> Sequence[Instance]:
        """Its instances that are not gone, with their latest load; none where those of others answer for it."""
        return self.source.instances() if isinstance(self.source, Route) and self.parent is None else ()


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
        self._starting: set[asyncio.Future[None]] = set()
        self._by_name = {name: model for model in models for name in model.names}

    def find(self, name: str) -> Model:
        """The model of a name or alias.

        Raises:
            ModelNotFound: It is not served.
        """
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFound(name, tuple(self._by_name))
        return model

    @property
    def held(self) -> Mapping[str, HeldRequests]:
        """The requests that wait here for an instance, by model."""
        return self._router.held

    @property
    def placements(self) -> Mapping[str, Placements]:
        """What the prompts of each model are reckoned by where an instance is picked for them."""
        return self._router.placements

    def cards(self) -> Sequence[ModelCard]:
        """What is served, as it is now."""
        return [model.card() for model in self.models]

    def instances(self) -> Sequence[Instance]:
        """Every instance of every model that is not gone, with its latest load."""
        return [instance for model in self.models for instance in model.instances()]

    @property
    def ready(self) -> bool:
        """Whether every model that is served from here is ready, or wakes up when it is asked.

        A provider may be down, and is not to hold the fleet up.
        """
        return all(model.serves for model in self.models if not model.is_remote)

    async def start(self) -> None:
        """Begins to follow the instances, and starts the engines of providers.

        Returns when it knows which instances there are, ready or not.
        """
        await self._router.start()
        providers = [model for model in self.models if model.is_remote]
        self._starting = {asyncio.ensure_future(_start(model)) for model in providers}
        if self._starting:
            # Most are there at once; nobody waits for one that is not.
            await asyncio.wait(self._starting, timeout=_PROVIDERS_S)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Waits for what is under way, no longer than the deadline, then lets instances and providers go."""
        for starting in self._starting:
            starting.cancel()
        await self._router.stop(timeout_s)
        await asyncio.gather(*(model.engine.stop(timeout_s) for model in self.models if model.is_remote))

    def check(self) -> None:
        """Returns while it hears of instances; having none is not its illness.

        Raises:
            RuntimeError: It does not.
        """
        self._router.check()


async def _start(model: Model) -> None:
    while True:
        try:
            await model.engine.start()
        except PenstockError as error:
            logger.warning("The model %s cannot be asked: %s", model.name, error.message)
            await asyncio.sleep(_START_AGAIN_S)
        else:
            return
