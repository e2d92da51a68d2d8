"""Which web pages may call the API from a browser."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.fleet_settings import HttpSettings
from engines.errors import EngineFailed, QueueFull
from tests.deployments.http.conftest import Serving

PAGE = "https://chat.example.com"
ASKS = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-session-id",
}


def allowing(*origins: str) -> dict[str, Any]:
    return {"cors": {"origins": origins}}


async def test_by_default_no_page_is_spoken_to(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        preflight = await served.request("OPTIONS", "/v1/chat/completions", headers=ASKS)
        answer = await served.chat()
        asked = await served.get("/v1/models", headers={"Origin": PAGE})
    assert (preflight.status, preflight.json["error"]["code"]) == (405, "method_not_allowed")
    for one in (preflight, answer, asked):
        assert not [name for name in one.headers if name.lower().startswith("access-control") or name == "Vary"]


@pytest.mark.parametrize("origins", [(PAGE,), ("http://localhost:3000", PAGE), ("*",)])
async def test_a_page_that_is_named_may_ask(
    serving: Serving, origins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", "secret")
    async with serving(["Hi"], **allowing(*origins)) as served:
        answer = await served.request("OPTIONS", "/v1/chat/completions", headers=ASKS)
    # A browser sends no key with this.
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == ("*" if origins == ("*",) else PAGE)
    assert answer.headers["Access-Control-Allow-Headers"] == ASKS["Access-Control-Request-Headers"]
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers.get("Vary") == (None if origins == ("*",) else "Origin")
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_every_answer_can_be_read_errors_and_streams_too(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts: list[Any] = [["Hi"], [QueueFull("full")], [EngineFailed("broke")], ["Hi", EngineFailed("broke")]]
    for script in scripts:
        for stream in (False, True):
            async with serving(script, **allowing(PAGE)) as served:
                body = {"model": "demo", "messages": [{"role": "user", "content": "a"}], "stream": stream}
                answer = await served.post("/v1/chat/completions", body, headers={"Origin": PAGE})
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE, (script, answer.status)
            exposed = answer.headers["Access-Control-Expose-Headers"]
            assert exposed == "x-request-id, x-penstock-instance, retry-after"
    monkeypatch.setenv("PENSTOCK_API_KEYS", "secret")
    async with serving(["Hi"], **allowing(PAGE)) as served:
        for path in ("/v1/models", "/nowhere"):
            answer = await served.get(path, headers={"Origin": PAGE})
            assert answer.status == 401
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE


async def test_another_page_is_refused_and_reads_nothing(serving: Serving) -> None:
    async with serving(["Hi"], **allowing(PAGE)) as served:
        for other in ("https://evil.example.com", PAGE + ".evil.com", PAGE.upper(), "null"):
            preflight = await served.request("OPTIONS", "/v1/chat/completions", headers={**ASKS, "Origin": other})
            assert (preflight.status, preflight.json["error"]["code"]) == (403, "forbidden")
            asked = await served.get("/v1/models", headers={"Origin": other})
            for answer in (preflight, asked):
                assert "Access-Control-Allow-Origin" not in answer.headers
                assert answer.headers["Vary"] == "Origin"


async def test_a_plain_options_request_is_no_preflight(serving: Serving) -> None:
    async with serving(["Hi"], **allowing(PAGE)) as served:
        assert (await served.request("OPTIONS", "/v1/chat/completions")).status == 405
        assert (await served.request("OPTIONS", "/v1/chat/completions", headers={"Origin": PAGE})).status == 405


async def test_odd_header_names_are_not_repeated(serving: Serving) -> None:
    async with serving(["Hi"], **allowing(PAGE)) as served:
        for odd in ("a: b", "x" * 5000, "<script>"):
            headers = {**ASKS, "Access-Control-Request-Headers": odd}
            answer = await served.request("OPTIONS", "/v1/chat/completions", headers=headers)
            assert answer.status == 204
            assert "Access-Control-Allow-Headers" not in answer.headers


@pytest.mark.parametrize("origin", ["chat.example.com", "https://a.com/", "https://a.com/path", "", "https://"])
def test_what_is_no_origin_is_an_error_of_the_fleet_file(origin: str) -> None:
    with pytest.raises(ValidationError):
        HttpSettings(cors={"origins": [origin]})
