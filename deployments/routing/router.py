"""The push router: follows the instances of all models, and has a route to each model.

It knows nothing of Ray: where the instances are and how to reach one is handed in, so a program without a cluster
routes over engines of its own process, and so do tests.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from actors.channel import frames as topics
from actors.channel.frames import News
from actors.directory.known_instance import Instance
from deployments.model_settings import RoutingSettings
from deployments.routing.demand_meter import DemandMeter
from deployments.routing.fault_budget import FaultBudget
from deployments.routing.held_requests import HeldRequests
from deployments.routing.member import Member
from deployments.routing.members import Connect, Members, Watch
from deployments.routing.picker import InstancePicker
from deployments.routing.placements import Placements
from deployments.routing.route import Route
from engines.prefix_chunks import unpack, unpack_held


class PushRouter:
    """Routes to every model, over one view of the instances.

    Args:
        models: How the instances of each model are picked, by the model's name.
        adapters: LoRA adapters, each with the name of its model.
        watch: Source of the instances.
        connect: Makes the egress to one.
        node: Where it lives itself: a node that is surely alive.
        convict: Tells the other routers of a request that takes engines with it, by its fingerprint; returns when
            they know. None: there are no others.
        meters: Count what is asked of models whose instances follow their load, by the model's name.

    Attributes:
        routes: The instances of each model as one engine, by the model's name; and those of each adapter's model.
        fault_budget: Which requests may be the end of instances; shared by all models.
        held: The requests that wait for an instance of each model.
    """

    def __init__(
        self,
        models: Mapping[str, RoutingSettings],
        watch: Watch,
        connect: Connect,
        *,
        adapters: Mapping[str, str] | None = None,
        node: str = "",
        convict: Callable[[str], Coroutine[Any, Any, None]] | None = None,
        meters: Mapping[str, DemandMeter] | None = None,
    ) -> None:
        self._node = node
        self.fault_budget = FaultBudget(self._node_lives, convict)
        self._pickers = {
            model: InstancePicker(
                model,
                routing,
                partial(self._members_of, model),
                placements=Placements(model, routing.policy, self._key),
            )
            for model, routing in models.items()
        }
        faults = {model: picker.faults for model, picker in self._pickers.items()}
        self._members = Members(watch, connect, faults, self._heard, self.fault_budget)
        self.held = {
            model: HeldRequests(model, routing.max_held, routing.max_held_bytes) for model, routing in models.items()
        }

        def route(model: str, adapter: str | None = None) -> Route:
            meter = (meters or {}).get(model)
            return Route(self._pickers[model], self._members, self.fault_budget, self.held[model], adapter, meter)

        routes = {model: route(model) for model in models}
        routes.update({adapter: route(model, adapter) for adapter, model in (adapters or {}).items()})
        self.routes: Mapping[str, Route] = routes

    @property
    def placements(self) -> Mapping[str, Placements]:
        """What the prompts of each model are reckoned by, by the model's name."""
        return {model: picker.placements for model, picker in self._pickers.items()}

    async def start(self) -> None:
        """Begins to follow the instances; returns when it knows which there are, ready or not."""
        await self._members.start()

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Waits for what is under way, no longer than the deadline, then closes every egress."""
        deadline_s = time.monotonic() + timeout_s
        while self._members.in_flight() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - the egresses signal no end
            await asyncio.sleep(0.05)
        await self._members.stop()

    def check(self) -> None:
        """Returns while it hears of instances.

        Raises:
            RuntimeError: It does not.
        """
        self._members.check()

    def _members_of(self, model: str) -> list[Member]:
        return self._members.of(model)

    def _key(self) -> bytes:
        # All routers of a fleet have this one, once they have heard of the directory.
        return self.fault_budget.key

    def _heard(self, instance: Instance, news: News) -> None:
        picker = self._pickers[instance.model]
        prefixes = picker.placements.prefixes
        whose = instance.id, instance.incarnation
        match news.topic:
            case topics.PREFIXES:
                data, written = news.body
                prefixes.hear(*whose, unpack(data), written)
            case topics.ALL_PREFIXES:
                data, stamps = news.body
                prefixes.hear_all(*whose, unpack(data), unpack(stamps))
            case topics.CHUNKS:
                number, cached, tokens, evicted = news.body
                prefixes.hear_change(*whose, number, unpack_held(cached, tokens), unpack(evicted))
            case topics.ALL_CHUNKS:
                number, cached, tokens = news.body
                prefixes.hear_cached(*whose, number, unpack_held(cached, tokens))
            case topics.SESSIONS:
                for session, idle_s in news.body:
                    picker.affinity.hear(session, instance.id, idle_s)

    def _node_lives(self, node: str, since_s: float) -> bool:
        return node == self._node or self._members.heard_of(node) > since_s
