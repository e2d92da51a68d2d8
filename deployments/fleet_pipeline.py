"""The operators around the router: what acts on whole streams, model by model."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from actors.directory.known_instance import Instance
from deployments.fleet_engine import FleetEngine, ModelCard
from deployments.fleet_settings import ModelSettings
from engines.context import Context
from engines.contract import Engine, Sink
from engines.operators.migration import Migration, Move
from engines.operators.operator import Operator
from engines.requests import GenerateRequest


class FleetPipeline(Operator, FleetEngine):
    """A fleet whose streams outlive their instances.

    Args:
        fleet: What picks an instance for each request.
        models: The served models, with how streams of each are continued.
        on_move: Hears of each stream that broke: its model, and what became of it.
    """

    def __init__(
        self, fleet: FleetEngine, models: Sequence[ModelSettings], on_move: Callable[[str, Move], None]
    ) -> None:
        super().__init__(fleet)
        self._fleet = fleet
        self._pipelines: Mapping[str, Engine] = {
            name: Migration(fleet, model.migration.limit, model.migration.wait_s, partial(on_move, model.name))
            for model in models
            for name in (model.name, *model.aliases)
        }

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """As `Engine.submit`."""
        # A model that is not served is the fleet's to refuse.
        await self._pipelines.get(request.model, self._fleet).submit(request, context, sink)

    def models(self) -> Sequence[ModelCard]:
        """As `FleetEngine.models`."""
        return self._fleet.models()

    def instances(self) -> Sequence[Instance]:
        """As `FleetEngine.instances`."""
        return self._fleet.instances()
