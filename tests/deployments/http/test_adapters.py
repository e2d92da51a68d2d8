"""Adapters as clients see them: models of their own, by every API, for whoever may use them."""

from pathlib import Path
from typing import Any

import pytest

from engines.errors import AdapterFailed
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from tests.deployments.http.conftest import HELLO, Served, Serving
from tests.deployments.http.realtime.talking import talking, text_of
from tests.deployments.tenants.key_files import key_file

ADAPTERS = {"sql": "demo", "broken": "demo"}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 9},
}


def script(request: GenerateRequest) -> list[Any]:
    if request.adapter == "broken":
        return [AdapterFailed("The adapter 'broken' cannot be loaded: it has no adapter_config.json.")]
    return [f"I am {request.adapter}"]


def engines() -> list[ScriptedEngine]:
    return [ScriptedEngine("demo-0", script=script)]


def bearer(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant}-key"}


async def test_they_are_listed_with_their_parent(serving: Serving) -> None:
    async with serving(engines=engines(), adapters=ADAPTERS) as served:
        listed = (await served.get("/v1/models")).json["data"]
        assert [(model["id"], model["root"], model["parent"]) for model in listed] == [
            ("demo", "demo", None),
            ("sql", "sql", "demo"),
            ("broken", "broken", "demo"),
        ]
        assert (await served.get("/v1/models/sql")).json == listed[1]


@pytest.mark.parametrize("path", ASKED)
async def test_every_api_asks_them_by_their_name(serving: Serving, path: str) -> None:
    async with serving(engines=engines(), adapters=ADAPTERS) as served:
        for model, says in (("sql", "I am sql"), ("demo", "I am None")):
            answer = await served.post(path, {"model": model, **ASKED[path]})
            assert answer.status == 200 and answer.json["model"] == model
            assert says in answer.body.decode()
            assert "x-penstock-model" not in answer.headers
            streamed = await served.post(path, {"model": model, "stream": True, **ASKED[path]})
            assert f'"model": "{model}"'.replace(" ", "") in streamed.body.decode().replace(" ", "")
        tokens = 'penstock_generation_tokens_total{model="sql"}'
        assert tokens in (await served.get("/metrics")).body.decode()


@pytest.mark.parametrize("path", ASKED)
async def test_one_that_cannot_be_loaded_is_named_and_the_others_go_on(serving: Serving, path: str) -> None:
    async with serving(engines=engines(), adapters=ADAPTERS) as served:
        answer = await served.post(path, {"model": "broken", **ASKED[path]})
        assert answer.status == 500
        assert (
            "The adapter 'broken' cannot be loaded: it has no adapter_config.json." in answer.json["error"]["message"]
        )
        for model in ("demo", "sql"):
            assert (await served.post(path, {"model": model, **ASKED[path]})).status == 200


async def test_turns_of_a_realtime_session_are_its_own(serving: Serving) -> None:
    async with serving(engines=engines(), adapters=ADAPTERS) as served, talking(served, "sql") as talk:
        assert [text_of(await talk.says("hello")) for _ in range(2)] == ["I am sql"] * 2


async def refusals(served: Served, tenant: str, *models: str) -> dict[str, int]:
    return {
        model: (
            await served.post("/v1/chat/completions", {"model": model, "messages": HELLO}, headers=bearer(tenant))
        ).status
        for model in models
    }


async def test_a_key_for_a_model_is_none_for_its_adapters_nor_the_other_way_round(
    serving: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(base={"models": ["demo"]}, adapter={"models": ["sql"]}, all={}))
    async with serving(engines=engines(), adapters=ADAPTERS, keys={"file": str(file)}) as served:
        assert await refusals(served, "base", "demo", "sql") == {"demo": 200, "sql": 404}
        assert await refusals(served, "adapter", "demo", "sql", "broken") == {"demo": 404, "sql": 200, "broken": 404}
        assert await refusals(served, "all", "demo", "sql") == {"demo": 200, "sql": 200}
        listed = await served.get("/v1/models", headers=bearer("adapter"))
        assert [model["id"] for model in listed.json["data"]] == ["sql"]
        unknown = await served.post("/v1/completions", {"model": "nope", "prompt": "x"}, headers=bearer("adapter"))
        assert unknown.json["error"]["message"].endswith("Served: sql.")


async def test_no_field_of_a_body_names_an_adapter(serving: Serving) -> None:
    async with serving(engines=engines(), adapters=ADAPTERS) as served:
        for path, fields in ASKED.items():
            answer = await served.post(path, {"model": "demo", "adapter": "sql", **fields})
            assert answer.status in (200, 400) and "I am sql" not in answer.body.decode()
