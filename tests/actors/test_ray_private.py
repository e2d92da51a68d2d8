"""Ray's private names: there in the version that is pinned, and not needed."""

import logging
from typing import Any

import pytest
import ray

from actors import ray_private
from actors.channel import inline_reports, ray_stream
from actors.settings import ChannelSettings
from engines.completion import collect
from engines.context import Context
from tests.actors.channel_reader import request, until
from tests.actors.listening import Heard

Start = Any


def test_this_version_has_them_all() -> None:
    assert ray_private.READS_BY_CALLBACK
    assert ray_private.REPORTS_INLINE
    assert ray_private.KEEPS_VALUES
    assert ray.__version__.startswith(ray_private.MADE_FOR + ".")


def test_what_is_missing_is_said_once_with_the_version(caplog: pytest.LogCaptureFixture) -> None:
    names = ["ray._raylet:CoreWorker.no_such_thing", "ray.no_such_module:x", "ray:get(object_refs)", "ray:get(nothing)"]
    with caplog.at_level(logging.WARNING):
        assert not ray_private.find("things happen", names)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"Ray {ray.__version__} has moved ray._raylet:CoreWorker.no_such_thing, ray.no_such_module:x, "
        f"ray:get(nothing), which Ray {ray_private.MADE_FOR} has: things happen more slowly."
    )


def test_reports_stay_rays_own_without_its_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_reports, "REPORTS_INLINE", False)
    inline_reports.report_inline()  # Here is no actor whose executor could be set.


async def test_a_channel_works_by_rays_public_way_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_stream, "READS_BY_CALLBACK", False)
    heard = Heard()
    settings = ChannelSettings(rotate_after=16, heartbeat_s=0.2, silence_s=2.0, pace_s=0)
    instance, egress = await start([{"count_from": 1, "to": 100}], channel=settings, listener=heard)
    for _ in range(2):
        completion = await collect(egress.generate(request(), Context()))
        assert completion.text == " ".join(map(str, range(1, 101)))
    assert not heard.losses
    ray.kill(instance.actor)
    await until(lambda: heard.losses)
    assert not egress.ready
