"""A fleet of one simulated engine with a database, behind the HTTP ingress: what the client's tests ask."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from deployments.database.storage import Storage
from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.fleet_settings import DatabaseSettings, HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from engines.registry import EngineSpec, make_engine

MODEL = "demo"
FILL_IN = "<|fim_prefix|>{prompt}<|fim_suffix|>{suffix}<|fim_middle|>"


@asynccontextmanager
async def serving(names: Sequence[str]) -> AsyncIterator[str]:
    """The URL of its API.

    Args:
        names: What the tests call models.
    """
    engine = make_engine("demo-0", EngineSpec(kind="simulated", model=MODEL, options={"speed": "instant"}))
    fleet = LocalFleet(
        {MODEL: [engine]}, dict.fromkeys(names, MODEL), fill_in_the_middle={MODEL: FillInTheMiddle.parse(FILL_IN)}
    )
    settings = HttpSettings(port=0)
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(DatabaseSettings(file=str(Path(folder) / "penstock.sqlite")), settings)
        ingress = HttpIngress(fleet, settings, Metrics(), storage=storage)
        await fleet.start()
        await ingress.start()
        try:
            yield f"http://127.0.0.1:{ingress.port}/v1"
        finally:
            await ingress.stop(0)
            await fleet.stop()
