"""The models of a fleet, as engines: routes, providers, models made of models; each with its operators around it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.fleet import Model
from deployments.fleet_settings import FleetSettings
from deployments.model_settings import AttachmentSettings, FallbackSettings, ModelSettings, PoolSettings
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
        routes: The routes of those with instances, by name.
        report: Hears what the operators report.
    """
    built: dict[str, Model] = {}

    def engine(name: str) -> Engine:
        return build(settings.named(name)).engine

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

    def build(model: ModelSettings | FallbackSettings | PoolSettings) -> Model:
        if model.name not in built:
            operators = [make_operator(spec) for spec in model.operators]
            for operator in operators:
                operator.report = partial(report, model.name)
            behind = source(model)
            around = link(Attachments(_reader(model.attachments)), *operators, behind)
            template = model.fill_in_the_middle
            built[model.name] = Model(
                model.name,
                around,
                behind,
                tuple(model.aliases),
                fill_in_the_middle=None if template is None else FillInTheMiddle.parse(template),
            )
        return built[model.name]

    return [build(model) for model in settings.models]


def _reader(settings: AttachmentSettings) -> AttachmentReader:
    return AttachmentReader(settings, UrlFetcher(settings.urls).fetch if settings.urls is not None else None)
