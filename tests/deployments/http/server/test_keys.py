import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.http.key_source import key_source
from deployments.http.server.keys import Authentication
from deployments.http.server.refusals import CannotListen
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from deployments.tenants import keys as keys_module
from deployments.tenants.keys import KeysOfEnvironment
from engines.errors import Unauthorized
from engines.scripted.engine import ScriptedEngine
from engines.scripted.script import Hang
from tests.benchmarks.servers import free_port
from tests.clock import Clock
from tests.deployments.http.conftest import Serving, until
from tests.deployments.tenants.key_files import key_file

ASKED = ["/v1/models", "/metrics", "/-/routes", "/nowhere"]
OPEN = ["/health", "/live", "/ready", "/-/healthz"]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", "first, second,,")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic first", "Bearer f\u00efrst", "Bearer firs"]
)
async def test_a_wrong_key_is_401_everywhere_but_at_the_probes(
    serving: Serving, keys: None, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with serving(["Hi"]) as served:
        for path in ASKED:
            answer = await served.get(path, headers=headers)
            assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key"), path
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        chat = await served.post("/v1/chat/completions", b"not even json", headers=headers)
        assert chat.status == 401
        for path in OPEN:
            assert (await served.get(path, headers=headers)).status == 200, path


@pytest.mark.parametrize("key", ["first", "second"])
async def test_each_key_is_let_in(serving: Serving, keys: None, key: str) -> None:
    async with serving(["Hi"]) as served:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {key}"}
            assert (await served.get("/v1/models", headers=headers)).status == 200


async def test_without_keys_nobody_is_asked(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        assert (await served.chat()).status == 200


def bearer(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant}-key"}


def rewrite(file: Path, text: str) -> None:
    file.write_text(text)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of keys that is looked at often."""
    monkeypatch.setattr(keys_module, "LOOK_S", 0.01)
    file = tmp_path / "keys.yaml"
    file.write_text(
        key_file(
            search={"max_n": 2, "max_tokens": 5, "priority": {"most_urgent": 1}},
            embeds={"scopes": ["embed"], "models": ["vectors"]},
            operators={"scopes": ["admin"]},
        )
    )
    return file


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
async def test_a_key_is_found_where_each_kind_of_client_sends_it(serving: Serving, file: Path, header: str) -> None:
    value = "Bearer search-key" if header == "Authorization" else "search-key"
    async with serving(["Hi"], keys={"file": str(file)}) as served:
        assert (await served.chat()).status == 401
        assert (await served.get("/v1/models", headers={header: value})).status == 200
        assert (await served.get("/v1/models", headers={header: value + "x"})).status == 401


async def test_what_a_key_does_not_allow_is_refused_in_the_callers_words(serving: Serving, file: Path) -> None:
    async with serving(["Hi"], keys={"file": str(file)}) as served:

        async def ask(tenant: str = "search", **fields: Any) -> tuple[int, str | None, str]:
            body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}
            answer = await served.post("/v1/chat/completions", body, headers=bearer(tenant))
            error = (answer.json or {}).get("error", {})
            return answer.status, error.get("param"), error.get("message", "")

        assert await ask(n=2) == (200, None, "")
        assert await ask(n=3) == (403, "n", "n: it is at most 2 for this API key.")
        said = (403, "max_completion_tokens", "max_completion_tokens: it is at most 5 for this API key.")
        assert await ask(max_completion_tokens=6) == said
        assert (await ask(priority=0))[:2] == (403, "priority")
        assert (await ask(instance="demo-0"))[:2] == (403, "instance")
        assert (await ask("operators"))[0] == 403
        # A model that is not for this key is one that there is not.
        status, param, message = await ask("embeds")
        assert (status, param) == (404, "model") and message.endswith("Served: none yet.")
        text = await served.post("/tokenize", {"prompt": "hi"}, headers=bearer("embeds"))
        assert text.status == 403

        listed = {
            tenant: [model["id"] for model in (await served.get("/v1/models", headers=bearer(tenant))).json["data"]]
            for tenant in ("search", "embeds", "operators")
        }
        assert listed == {"search": ["demo"], "embeds": [], "operators": ["demo"]}
        assert (await served.get("/v1/models/demo", headers=bearer("embeds"))).status == 404


async def test_who_has_spent_its_quota_hears_when_there_is_more_and_others_do_not(
    serving: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(poor={"tokens_per_minute": 2000, "max_requests": 3}, rich={}))
    async with serving(["Hi"], keys={"file": str(file)}) as served:

        async def ask(tenant: str, max_tokens: int, stream: bool = False) -> Any:
            body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens}
            return await served.post("/v1/chat/completions", {**body, "stream": stream}, headers=bearer(tenant))

        for stream in (False, True):
            answer = await ask("poor", 500, stream)
            limits = {name: answer.headers[f"x-ratelimit-{name}"] for name in ("limit-requests", "limit-tokens")}
            assert (answer.status, limits) == (200, {"limit-requests": "3", "limit-tokens": "2000"})
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 2000
        too_large = await ask("poor", 2001)
        assert (too_large.status, too_large.json["error"]["param"]) == (403, "max_tokens")
        full = await ask("poor", 1600)
        async with asyncio.timeout(60):
            while full.status == 200:
                full = await ask("poor", 1600)
        assert (full.status, full.json["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(full.headers["Retry-After"]) <= 61
        rich = await ask("rich", 5000)
        assert rich.status == 200 and not [name for name in rich.headers if name.lower().startswith("x-ratelimit")]


async def test_operators_routes_take_an_operators_key(serving: Serving, file: Path) -> None:
    async with serving(["Hi"], keys={"file": str(file)}) as served:
        for path in ("/metrics", "/-/routes"):
            assert (await served.get(path, headers=bearer("search"))).status == 403
            assert (await served.get(path, headers=bearer("operators"))).status == 200


async def test_operators_have_a_port_of_their_own(serving: Serving, file: Path) -> None:
    port = free_port()
    async with serving(["Hi"], keys={"file": str(file)}, operators={"port": port}) as served:
        url = f"http://127.0.0.1:{port}"

        async def status(method: str, path: str, **kwargs: Any) -> int:
            async with served.client.request(method, url + path, **kwargs) as response:
                return response.status

        for path in ("/metrics", "/-/routes", "/ready"):
            assert await status("GET", path) == 200
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
        for headers in ({}, bearer("search"), bearer("operators")):
            assert await status("POST", "/v1/chat/completions", json=body, headers=headers) == 404
        assert await status("GET", "/metrics", headers={"Host": "evil.example"}) == 403
        assert (await served.get("/metrics")).status == 401


async def test_operators_show_a_key_where_others_reach_their_port(serving: Serving, file: Path) -> None:
    # Another machine's view of this one: an address that is not loopback.
    port = free_port()
    async with serving(["Hi"], keys={"file": str(file)}, operators={"host": "0.0.0.0", "port": port}) as served:
        for headers, status in (({}, 401), (bearer("search"), 403), (bearer("operators"), 200)):
            async with served.client.get(f"http://127.0.0.1:{port}/metrics", headers=headers) as response:
                assert response.status == status
    ingress = HttpIngress(
        LocalFleet({"demo": []}), HttpSettings(port=0, operators={"host": "0.0.0.0", "port": port}), Metrics()
    )
    with pytest.raises(CannotListen, match=r"http\.operators: whoever reaches 0\.0\.0\.0 could read"):
        await ingress.start()


async def test_a_port_of_operators_that_is_taken_is_named(file: Path) -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    settings = HttpSettings(port=0, keys={"file": str(file)}, operators={"port": taken.getsockname()[1]})
    ingress = HttpIngress(LocalFleet({"demo": []}), settings, Metrics())
    with pytest.raises(CannotListen, match=r"is taken by another program\. .* another http\.operators\.port"):
        await ingress.start()
    taken.close()
    await ingress.stop()


async def test_what_each_tenant_asked_for_is_counted(serving: Serving, file: Path) -> None:
    async with serving(["Hi"], keys={"file": str(file)}) as served:
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
        assert (await served.post("/v1/chat/completions", body, headers=bearer("search"))).status == 200
        text = (await served.get("/metrics", headers=bearer("operators"))).body.decode()
        assert 'penstock_tenant_requests_total{status="200",tenant="search"} 1.0' in text
        assert 'penstock_tenant_tokens_total{kind="generation",tenant="search"}' in text
        assert "penstock_keys_unreadable 0.0" in text
        assert "search-key" not in text
        rewrite(file, "tenants: {")
        await until(lambda: bool(served.ingress._services.keys.problem))
        text = (await served.get("/metrics", headers=bearer("operators"))).body.decode()
        assert "penstock_keys_unreadable 1.0" in text


async def test_a_stream_ends_with_its_key(serving: Serving, file: Path) -> None:
    async with serving(["Hi", Hang()], keys={"file": str(file)}) as served:
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        url = served.url + "/v1/chat/completions"
        async with served.client.post(url, json=body, headers=bearer("search")) as response:
            assert response.status == 200
            lines = [await response.content.readline()]
            rewrite(file, key_file(operators={"scopes": ["admin"]}))
            async with asyncio.timeout(60):
                lines += [line async for line in response.content]
        ended = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")][-1]
        assert ended["error"]["code"] == "cancelled"
        assert (await served.post("/v1/chat/completions", body, headers=bearer("search"))).status == 401


async def test_a_variable_that_the_settings_name_and_that_is_not_set_lets_nobody_in(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEYS", raising=False)
    # As the settings come to a replica: every field was written down.
    for settings in (HttpSettings(api_keys_env="TEST_KEYS"), HttpSettings()):
        copy = HttpSettings.model_validate_json(settings.model_dump_json())
        assert key_source(copy).is_open == (settings.api_keys_env is None)
    async with serving(["Hi"], api_keys_env="TEST_KEYS") as served:
        assert (await served.chat()).json["error"]["code"] == "no_keys"


async def test_without_a_readable_file_nobody_is_let_in_and_it_is_not_ready(serving: Serving, tmp_path: Path) -> None:
    async with serving(["Hi"], keys={"file": str(tmp_path / "nowhere.yaml")}) as served:
        for headers in ({}, bearer("search")):
            answer = await served.get("/v1/models", headers=headers)
            assert (answer.status, answer.json["error"]["code"]) == (503, "no_keys")
        ready = await served.get("/ready")
        assert (ready.status, ready.json) == (503, {"status": "no keys"})
        assert (await served.get("/live")).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.2"])
async def test_other_machines_are_not_let_in_without_a_key_by_accident(host: str) -> None:
    fleet = LocalFleet({"demo": [ScriptedEngine("demo-0")]})
    ingress = HttpIngress(fleet, HttpSettings(host=host, port=0), Metrics())
    with pytest.raises(CannotListen, match=r"http\.keys\.file.*http\.open: true"):
        await ingress.start()


async def test_other_machines_may_ask_without_a_key_where_that_is_meant(serving: Serving) -> None:
    async with serving(["Hi"], host="0.0.0.0", open=True) as served:
        assert (await served.chat()).status == 200


async def test_wrong_keys_are_answered_later_and_later_and_right_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_KEYS", "right")
    clock = Clock()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("deployments.http.server.keys.asyncio.sleep", sleep)
    authentication = Authentication(KeysOfEnvironment("TEST_KEYS", is_asked_for=True), clock)

    class Request:
        path = "/v1/models"
        remote = "192.0.2.1"

        def __init__(self, key: str) -> None:
            self.headers = {"Authorization": f"Bearer {key}"}

    async def guess(key: str) -> bool:
        try:
            await authentication.holder(Request(key))  # type: ignore[arg-type]
        except Unauthorized:
            return False
        return True

    assert not any([await guess("wrong") for _ in range(30)])
    assert waits == sorted(waits) and len(waits) == 25 and (waits[0], waits[-1]) == (0.1, 2.0)
    assert await guess("right") and len(waits) == 25
    clock.now_s += 61.0
    assert not await guess("wrong") and len(waits) == 25
