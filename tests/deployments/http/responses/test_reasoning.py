"""Encrypted reasoning: for one tenant, by one fleet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.fleet_secret import FleetSecret
from deployments.http.responses.reasoning import Sealer, Thought

SECRET = FleetSecret()


@given(st.text(), st.none() | st.text(), st.text())
def test_it_is_opened_for_whom_it_was_sealed(text: str, redacted: str | None, tenant: str) -> None:
    sealed = Sealer(SECRET, tenant).seal(Thought(text, redacted))
    assert Sealer(SECRET, tenant).open(sealed) == Thought(text, redacted)
    assert Sealer(SECRET, f"{tenant}x").open(sealed) is None


def test_half_of_a_character_is_kept() -> None:
    sealer = Sealer(SECRET, "team")
    assert sealer.open(sealer.seal(Thought("\ud83d"))) == Thought("\ud83d")


@pytest.mark.parametrize("purpose", ["anthropic thinking", "realtime client secret"])
def test_what_was_sealed_for_something_else_is_none(purpose: str) -> None:
    assert (
        Sealer(SECRET, "team").open(SECRET.seal(purpose, b'{"tenant": "team", "text": "", "redacted": null}')) is None
    )


def test_another_fleets_is_none() -> None:
    assert Sealer(FleetSecret(), "team").open(Sealer(SECRET, "team").seal(Thought("a"))) is None
