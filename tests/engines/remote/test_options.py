"""Options of remote engines: what a fleet file may say, and how it is told what is wrong."""

from typing import Any

import pytest
from pydantic import ValidationError

from engines.contract import Capabilities
from engines.registry import KINDS, EngineSpec, make_engine, options_type
from engines.remote.options import RemoteCapabilities

REMOTE = [name for name, kind in KINDS.items() if kind.remote]
URL = {"base_url": "https://api.example.com/v1/"}
NEEDED = {"bedrock": {"region": "eu-central-1"}}


@pytest.mark.parametrize("kind", REMOTE)
def test_every_remote_kind_is_made_of_a_url(kind: str) -> None:
    engine = make_engine("remote-0", EngineSpec(kind=kind, model="model", options={**URL, **NEEDED.get(kind, {})}))
    assert engine.capabilities.accelerator == "remote"
    assert not engine.capabilities.resume and not engine.ready


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"base_url": "api.example.com"}, "base_url"),
        ({"base_url": "ftp://example.com"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://[half"}, "base_url"),
        ({"base_url": "https://user:secret@example.com"}, "base_url"),
        ({"base_url": "https://example.com?key=secret"}, "base_url"),
        ({**URL, "api_key": "sk-secret"}, "api_key"),
        ({**URL, "max_concurrent": 0}, "max_concurrent"),
        ({**URL, "idle_s": 0}, "idle_s"),
        ({**URL, "extra_body": {"stream": False}}, "extra_body"),
        ({**URL, "capabilities": {"resume": True}}, "capabilities"),
    ],
)
def test_wrong_options_are_refused_by_name(kind: str, options: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options_type(kind).model_validate({**NEEDED.get(kind, {}), **options})
    assert place in {error["loc"][0] for error in caught.value.errors()}
    assert "secret" not in str(caught.value)


def test_a_key_comes_from_one_place() -> None:
    with pytest.raises(ValidationError, match="not both"):
        options_type("openai").model_validate({**URL, "api_key_env": "A", "api_key_file": "b"})


def test_capabilities_that_are_given_go_over_the_defaults() -> None:
    given = RemoteCapabilities(tools=False, context_length=100)
    assert given.over(Capabilities(tools=True, vision=True)) == Capabilities(vision=True, context_length=100)


@pytest.mark.parametrize("capability", ["score", "pooling"])
@pytest.mark.parametrize("kind", REMOTE)
def test_only_a_server_of_vllms_dialect_can_be_asked_for_scores(kind: str, capability: str) -> None:
    options = {**URL, **NEEDED.get(kind, {}), "capabilities": {capability: True}}
    with pytest.raises(ValidationError, match=f"capabilities.{capability}"):
        options_type(kind).model_validate(options)
    if kind == "openai":
        assert options_type(kind).model_validate({**options, "dialect": "vllm"})
