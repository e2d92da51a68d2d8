"""What a key is not for cannot be had by another way of asking for it."""

from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from engines.scripted.script import Hang
from tests.deployments.http.conftest import HELLO, Serving, until
from tests.deployments.http.server.test_access_log import lines
from tests.deployments.tenants.key_files import key_file

CHAT = {"model": "demo", "messages": HELLO}


@pytest.fixture
def file(tmp_path: Path) -> str:
    file = tmp_path / "keys.yaml"
    bounds = {"max_n": 2, "max_tokens": 5, "max_requests": 3, "priority": {"most_urgent": 1}}
    file.write_text(key_file(search=bounds, operators={"scopes": ["admin"]}))
    return str(file)


def bearer(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant}-key"}


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/%6detrics",
        "//metrics",
        "/METRICS",
        "/metrics/",
        "/metrics;.js",
        "/metrics%3f",
        "/./metrics",
        "/live/../metrics",
        "/live%2f..%2fmetrics",
        "/-/routes",
        "/%2d/routes",
        "/-/healthz/../routes",
    ],
)
async def test_no_spelling_of_an_operators_route_lets_others_in(serving: Serving, file: str, path: str) -> None:
    async with serving(["Hi"], keys={"file": file}) as served:
        for headers, expected in ((bearer("search"), (403, 404)), ({}, (401,))):
            async with served.client.get(URL(served.url + path, encoded=True), headers=headers) as response:
                assert response.status in expected


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": "search-key"}, ""),
        ({"Authorization": "Bearer SEARCH-KEY"}, ""),
        ({"Authorization": "Bearer search-key,operators-key"}, ""),
        ({"Authorization": "Bearer search-key\u00e9"}, ""),
        # The first one that is there counts, and a good one beside it changes nothing.
        ({"Authorization": "Bearer wrong", "x-api-key": "search-key"}, ""),
        ({"Cookie": "key=search-key; Authorization=Bearer search-key"}, ""),
        ({"X-Forwarded-User": "operators", "X-Tenant": "operators", "Forwarded": "for=127.0.0.1"}, ""),
        ({}, "?api_key=search-key&key=search-key&access_token=search-key"),
    ],
)
async def test_a_key_counts_where_keys_belong(serving: Serving, file: str, headers: dict[str, str], query: str) -> None:
    async with serving(["Hi"], keys={"file": file}) as served:
        assert (await served.get(f"/v1/models{query}", headers=headers)).status == 401
        assert (await served.get("/v1/models", headers=bearer("search"))).status == 200


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        # Fields of requests inside of the fleet, which nobody outside may set.
        ({"tenant": {"name": "operators"}}, 400, "tenant"),
        ({"cache_salt": "tenant:operators"}, 400, "cache_salt"),
        ({"resume": {"choices": [[1]]}}, 400, "resume"),
        ({"alone": False}, 400, "alone"),
        ({"attachments": []}, 400, "attachments"),
        ({"sampling": {"max_tokens": 9}}, 400, "sampling"),
        ({"clip_max_tokens": True}, 400, "clip_max_tokens"),
        ({"chat_template": "{{ 1 }}"}, 400, "chat_template"),
        ({"kv_transfer_params": {"remote_host": "192.0.2.1"}}, 400, "kv_transfer_params"),
        ({"vllm_xargs": {"a": 1}}, 400, "vllm_xargs"),
        # The field that counts is the one that is held to the bound.
        ({"max_tokens": 5, "max_completion_tokens": 6}, 403, "max_completion_tokens"),
        ({"max_tokens": 6}, 403, "max_tokens"),
        ({"min_tokens": 6}, 403, "min_tokens"),
        ({"n": 3}, 403, "n"),
        ({"priority": 0}, 403, "priority"),
        ({"instance": "demo-0"}, 403, "instance"),
    ],
    ids=str,
)
async def test_a_field_that_is_not_for_this_key_is_refused(
    serving: Serving, file: str, fields: dict[str, Any], status: int, param: str
) -> None:
    async with serving(["Hi"], keys={"file": file}) as served:
        answer = await served.post("/v1/chat/completions", {**CHAT, **fields}, headers=bearer("search"))
        assert (answer.status, answer.json["error"]["param"]) == (status, param)
        assert not served.engine.requests
        assert (await served.post("/v1/chat/completions", CHAT, headers=bearer("search"))).status == 200


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("x-penstock-priority", "0", 403),
        ("x-penstock-priority", "-999999999", 400),
        ("x-penstock-priority", "1e2", 400),
        ("x-penstock-priority", "9" * 400, 400),
        ("x-penstock-instance", "demo-0", 403),
    ],
)
async def test_a_header_is_held_to_the_bounds_of_its_field(
    serving: Serving, file: str, header: str, value: str, status: int
) -> None:
    async with serving(["Hi"], keys={"file": file}) as served:
        answer = await served.post("/v1/chat/completions", CHAT, headers={**bearer("search"), header: value})
        assert (answer.status, answer.json["error"]["param"]) == (status, header)
        assert not served.engine.requests


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"prompt": ["a"] * 4}, 429), ({"n": 2, "best_of": 20}, 400), ({"prompt": ["a"] * 200}, 400)],
    ids=["at a time", "best_of", "in all"],
)
async def test_many_prompts_of_one_request_count_one_by_one(
    serving: Serving, file: str, fields: dict[str, Any], status: int
) -> None:
    async with serving([Hang()], keys={"file": file}) as served:
        body = {"model": "demo", "prompt": "a", "max_tokens": 1, **fields}
        assert (await served.post("/v1/completions", body, headers=bearer("search"))).status == status
        await until(lambda: not served.engine.active)


async def test_no_session_of_another_can_be_named(serving: Serving, file: str) -> None:
    async with serving(["Hi"], keys={"file": file}) as served:
        for name in ("operators/s", "../operators/s", "/operators/s"):
            body = {**CHAT, "session_id": name}
            assert (await served.post("/v1/chat/completions", body, headers=bearer("search"))).status == 200
        sessions = [request.session.id for request in served.engine.requests]
        assert sessions == ["search/operators/s", "search/../operators/s", "search//operators/s"]


async def test_nobody_writes_the_access_log_but_its_server(serving: Serving, file: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with serving(["Hi"], keys={"file": file}, access_log=str(log)) as served:
        claims = {"X-Forwarded-For": "192.0.2.1", "x-request-id": 'a", "tenant": "operators', **bearer("search")}
        await served.post("/v1/chat/completions", {**CHAT, "model": 'm\n{"tenant": "operators"}'}, headers=claims)
    (line,) = lines(log)
    assert (line["tenant"], line["peer"], line["model"], line["status"]) == ("search", "127.0.0.1", None, 404)
    assert line["request_id"].isalnum()
