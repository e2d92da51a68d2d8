"""Looks that come often: what is waited for is the same."""

import pytest

from deployments.http.responses.background import feeds, run, runs


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RENEW_S", 0.4)
    monkeypatch.setattr(run, "GATHER_S", 0.0)
    monkeypatch.setattr(run, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(runs, "LOOK_S", 0.1)
    monkeypatch.setattr(feeds, "LOOK_S", 0.05)
