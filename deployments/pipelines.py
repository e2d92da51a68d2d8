"""The models of a fleet, as engines: routes, providers, models made of models; each with its operators around it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.fleet import Model
from deployments.fleet_settings import FleetSettings
from deployments.model_settings import AttachmentSettings, FallbackSettings, ModelSettings, PoolSettings, ServedModel
from deployments.routing.route import Route
from engines.attachments.reader import AttachmentReader
from engines.attachments.url_fetcher import UrlFetcher
from engines.contract import Engine
from engines.operators.attachments import Attachments
from engines.operators.fallback import Fallback
from engines.operators.link import link
from engines.operators.pool import Pool, PoolMember
from engines.operators.registry import make_operator
from engines.registry import make_engine

Report = Callable[[str, Any], None]
"""Hears what the operators of a model report: the model's name, and what they say (`Move`, `BreakerTurned`, ...)."""


def build_models(settings: FleetSettings, routes: Mapping[str, Route], report: Report) -> list[Model]:
    """The models of a fleet, in its order; not started.

    Args:
        settings: The fleet.
        routes: The routes of those with instances, and of their adapters, by name.
        report: Hears what the operators report.
    """
    built: dict[str, Model] = {}
    adapters = {adapter.name: model for model in settings.deployed for adapter in model.adapters}

    def part(name: str) -> Model:
        return build_adapter(name) if name in adapters else build(settings.named(name))

    def engine(name: str) -> Engine:
        return part(name).engine

    def source(model: ModelSettings | FallbackSettings | PoolSettings) -> Engine:
        if isinstance(model, ModelSettings):
            return make_engine(model.name, model.spec()) if model.is_remote else routes[model.name]
        made: Fallback
        if isinstance(model, FallbackSettings):
            made = Fallback(model.name, [engine(name) for name in model.fallback])
        else:
            made = Pool(
                model.name,
                [PoolMember(engine(member.model), member.weight, member.failover) for member in model.pool],
            )
        made.report = partial(report, model.name)
        return made

    def around(behind: Engine, model: ServedModel, name: str) -> Engine:
        operators = [make_operator(spec) for spec in model.operators]
        for operator in operators:
            operator.report = partial(report, name)
        return link(Attachments(_reader(model.attachments)), *operators, behind)

    def build(model: ModelSettings | FallbackSettings | PoolSettings) -> Model:
        if model.name not in built:
            behind = source(model)
            built[model.name] = Model(
                model.name,
                around(behind, model, model.name),
                behind,
                tuple(model.aliases),
                fill_in_the_middle=_filling(model),
                parts=() if isinstance(model, ModelSettings) else tuple(map(part, model.members)),
                may_sleep=isinstance(model, ModelSettings) and model.may_sleep,
            )
        return built[model.name]

    def build_adapter(name: str) -> Model:
        if name not in built:
            # With operators of its own: a breaker that opens for a broken one must not close its model.
            base, behind = adapters[name], routes[name]
            built[name] = Model(
                name,
                around(behind, base, name),
                behind,
                parent=base.name,
                fill_in_the_middle=_filling(base),
                may_sleep=base.may_sleep,
            )
        return built[name]

    models = [build(model) for model in settings.models]
    return [*models, *map(build_adapter, adapters)]


def _filling(model: ServedModel) -> FillInTheMiddle | None:
    template = model.fill_in_the_middle
    return None if template is None else FillInTheMiddle.parse(template)


def _reader(settings: AttachmentSettings) -> AttachmentReader:
    return AttachmentReader(settings, UrlFetcher(settings.urls).fetch if settings.urls is not None else None)
