"""Host names that the server answers to."""

import pytest
from pydantic import ValidationError

from deployments.fleet_settings import HttpSettings
from tests.deployments.http.conftest import HELLO, Serving

PATHS = ("/ready", "/live", "/health", "/-/healthz", "/-/routes", "/metrics", "/v1/models", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_that_rebinds_its_name_gets_nothing(serving: Serving, path: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.get(path, headers={"Host": "evil.example"})
    assert (answer.status, answer.json["error"]["code"]) == (403, "unknown_host")
    message = answer.json["error"]["message"]
    assert "'evil.example'" in message
    assert "http.hosts" in message


async def test_nor_does_it_get_an_answer_to_what_it_posts(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        body = {"model": "demo", "messages": HELLO}
        host = {"Host": f"evil.example:{served.ingress.port}"}
        answer = await served.post("/v1/chat/completions", body, headers=host)
        assert answer.status == 403
        assert not served.engine.requests
        await served.still_serves()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"]
)
async def test_loopback_has_three_names_on_any_port(serving: Serving, host: str) -> None:
    async with serving(["Hi"]) as served:
        assert (await served.get("/ready", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["localhost.evil.example", "127.0.0.1.evil.example", "evil.example#localhost", "::1", "", "[::1]x", "[::2]"]
)
async def test_what_only_looks_like_one_is_none(serving: Serving, host: str) -> None:
    async with serving(["Hi"]) as served:
        assert (await served.get("/ready", headers={"Host": host})).status == 403


async def test_every_host_that_a_request_names_is_looked_at(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        hosts = b"Host: localhost\r\nHost: evil.example\r\n"
        raw = await served.raw(b"GET /ready HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    assert raw.split(b" ", 2)[1] in (b"400", b"403")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "evil.example", "evil@localhost"])
async def test_a_target_in_absolute_form_names_its_host_too(serving: Serving, host: str) -> None:
    async with serving(["Hi"]) as served:
        target = f"GET http://{host}/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        status = (await served.raw(target.encode())).split(b" ", 2)[1]
    assert status == (b"403" if "evil" in host else b"200")


async def test_a_probe_in_http_1_0_names_no_host(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        raw = await served.raw(b"GET /ready HTTP/1.0\r\n\r\n")
    assert raw.split(b" ", 2)[1] == b"200"


async def test_with_a_key_or_off_loopback_every_name_passes(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    host = {"Host": "evil.example"}
    async with serving(["Hi"], host="0.0.0.0", open=True) as served:
        assert (await served.get("/ready", headers=host)).status == 200
    monkeypatch.setenv("PENSTOCK_API_KEYS", "secret")
    async with serving(["Hi"]) as served:
        assert (await served.get("/v1/models", headers=host | {"Authorization": "Bearer secret"})).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_names_of_the_fleet_file_pass_and_no_others(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", "secret")
    async with serving(["Hi"], host=host, hosts=["Chat.example.com", "*.lan", "192.0.2.7", "[2001:db8::1]"]) as served:
        for name in ("chat.example.com:8000", "a.b.lan", "192.0.2.7", "[2001:db8::1]:80", "localhost"):
            assert (await served.get("/ready", headers={"Host": name})).status == 200, name
        for name in ("example.com", "x.chat.example.com", "lan", "evillan", "192.0.2.8"):
            answer = await served.get("/ready", headers={"Host": name})
            assert answer.status == 403, name


async def test_a_star_lets_every_name_pass(serving: Serving) -> None:
    async with serving(["Hi"], hosts=["*"]) as served:
        assert (await served.get("/ready", headers={"Host": "evil.example"})).status == 200


@pytest.mark.parametrize(
    "name", ["http://chat.example.com", "chat.example.com:8000", "chat.example.com/x", "", "a b", "*.*.com", "[::1"]
)
def test_what_is_no_name_is_refused_with_one_that_is(name: str) -> None:
    with pytest.raises(ValidationError, match=r"such as chat\.example\.com") as raised:
        HttpSettings(hosts=[name])
    assert raised.value.errors()[0]["loc"] == ("hosts", 0)
