"""A fleet of engines in this process, without Ray: for a program that embeds the ingress, and for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from actors.channel.listener import Listener
from actors.directory.known_instance import Instance, InstanceState
from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.fleet import Fleet, Model
from deployments.model_settings import RoutingSettings
from deployments.routing.local_egress import LocalEgress
from deployments.routing.router import PushRouter
from engines.attachments.reader import AttachmentLimits, AttachmentReader
from engines.contract import Engine
from engines.operators.attachments import Attachments
from engines.operators.link import link

_LOOK_EVERY_S = 0.05
"""An engine does not say when it becomes ready, or ceases to be."""


class LocalFleet(Fleet):
    """Engines of this process, routed to as those of a cluster are.

    Args:
        engines: The engines of each model, by the model's name. Their own names are those of the instances.
        aliases: Other names of models, to the names above.
        routing: How an instance of each model is picked.
        operators: Makes the engine that answers for a model, around its instances; None: nothing is around them.
        attachments: What those of one request may cost.
        adapters: LoRA adapters, each with the name of its model above.
        fill_in_the_middle: How models are shown the text before a gap and after it, by their names.
    """

    def __init__(
        self,
        engines: Mapping[str, Sequence[Engine]],
        aliases: Mapping[str, str] | None = None,
        routing: RoutingSettings | None = None,
        operators: Callable[[Engine], Engine] | None = None,
        attachments: AttachmentLimits | None = None,
        adapters: Mapping[str, str] | None = None,
        fill_in_the_middle: Mapping[str, FillInTheMiddle] | None = None,
    ) -> None:
        self._engines = {(model, engine.name): engine for model, members in engines.items() for engine in members}
        settings = routing or RoutingSettings()
        router = PushRouter(dict.fromkeys(engines, settings), self._watch, self._connect, adapters=adapters)
        models = [
            Model(
                name=model,
                engine=link(
                    Attachments(AttachmentReader(attachments)), operators(route) if operators is not None else route
                ),
                source=route,
                aliases=tuple(alias for alias, name in (aliases or {}).items() if name == model),
                parent=(adapters or {}).get(model),
                fill_in_the_middle=(fill_in_the_middle or {}).get(model),
            )
            for model, route in router.routes.items()
        ]
        super().__init__("local-fleet", router, models)

    async def start(self) -> None:
        """Boots every engine.

        Raises:
            PenstockError: One cannot boot.
        """
        await asyncio.gather(*(engine.start() for engine in self._engines.values()))
        await super().start()
        while not self._is_connected():  # noqa: ASYNC110 - an egress does not say that it was opened
            await asyncio.sleep(_LOOK_EVERY_S / 10)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Waits for what is under way, no longer than the deadline, then stops every engine."""
        await super().stop(timeout_s)
        await asyncio.gather(*(engine.stop(timeout_s) for engine in self._engines.values()))

    def _is_connected(self) -> bool:
        working = sum(engine.ready for engine in self._engines.values())
        return sum(model.card().ready for model in self.models if model.parent is None) >= working

    async def _watch(self) -> AsyncIterator[Sequence[Instance]]:
        known: list[Instance] | None = None
        while True:
            instances = [
                Instance(
                    id=name,
                    model=model,
                    state=InstanceState.READY if engine.ready else InstanceState.STARTING,
                    capabilities=engine.capabilities,
                )
                for (model, name), engine in self._engines.items()
            ]
            if instances != known:
                yield instances
                known = instances
            await asyncio.sleep(_LOOK_EVERY_S)

    def _connect(self, instance: Instance, listener: Listener) -> LocalEgress:
        return LocalEgress(self._engines[instance.model, instance.id], listener)
