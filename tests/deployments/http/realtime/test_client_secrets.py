"""Client secrets: keys for a short while, that open sessions and nothing else."""

import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from tests.deployments.http.conftest import Served, Serving
from tests.deployments.http.realtime.talking import talking, text_of
from tests.deployments.http.realtime.test_session import echo
from tests.deployments.tenants.key_files import key_file

PATH = "/v1/realtime/client_secrets"
OURS = {"Authorization": "Bearer ours-key"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(key_file(ours={"max_requests": 5}))
    return path


def replace(keys: Path, **tenants: Any) -> None:
    keys.write_text(key_file(**tenants))


async def made(served: Served, **body: Any) -> dict[str, Any]:
    answer = await served.post(PATH, body, headers=OURS)
    assert answer.status == 200, answer.body
    secret: dict[str, Any] = answer.json
    return secret


def browser(value: str) -> dict[str, Any]:
    """As a browser sends it, which cannot set headers."""
    return {"protocols": ("realtime", f"openai-insecure-api-key.{value}")}


async def refused(served: Served, path: str, **options: Any) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await served.client.ws_connect(served.url + path, **options)
    return caught.value.status


async def test_one_opens_sessions_as_it_says(serving: Serving, keys: Path) -> None:
    async with serving(echo, keys={"file": str(keys)}) as served:
        session = {"type": "realtime", "model": "demo", "instructions": "Be brief."}
        secret = await made(served, session=session, expires_after={"anchor": "created_at", "seconds": 60})
        assert 55 < secret["expires_at"] - time.time() <= 60
        assert secret["session"]["instructions"] == "Be brief."
        for _ in range(2):
            async with talking(served, **browser(secret["value"])) as talk:
                assert talk.heard[0]["session"]["instructions"] == "Be brief."
                assert text_of(await talk.says("hi")) == "hi (2)"
        path = "/v1/realtime?model=other"
        assert await refused(served, path, **browser(secret["value"])) == 400


async def test_openais_own_client_makes_and_uses_one(serving: Serving, keys: Path) -> None:
    async with serving(echo, keys={"file": str(keys)}) as served:
        server = AsyncOpenAI(base_url=f"{served.url}/v1", api_key="ours-key", max_retries=0)
        secret = await server.realtime.client_secrets.create(session={"type": "realtime"})
        client = AsyncOpenAI(base_url=f"{served.url}/v1", api_key=secret.value, max_retries=0)
        async with client.realtime.connect(model="demo") as connection:
            event = await connection.recv()
            assert event.type == "session.created"
        await server.close()
        await client.close()


async def test_it_opens_nothing_else_and_is_no_use_changed_or_old(
    serving: Serving, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(echo, keys={"file": str(keys)}) as served, serving(echo, keys={"file": str(keys)}) as stranger:
        value = (await made(served, expires_after={"anchor": "created_at", "seconds": 10}))["value"]
        mine = {"Authorization": f"Bearer {value}"}
        assert (await served.get("/v1/models", headers=mine)).status == 401
        assert (await served.post(PATH, {}, headers=mine)).status == 401
        path = "/v1/realtime?model=demo"
        changed = value[:-5] + ("A" if value[-5] != "A" else "B") + value[-4:]
        assert await refused(served, path, **browser(changed)) == 401
        # Another fleet has another secret.
        assert await refused(stranger, path, **browser(value)) == 401
        async with talking(served, **browser(value)) as talk:
            now_s = time.time()
            monkeypatch.setattr(time, "time", lambda: now_s + 11)
            assert await refused(served, path, **browser(value)) == 401
            # What it has opened goes on.
            assert text_of(await talk.says("hi")) == "hi (1)"


async def test_it_ends_with_the_key_that_made_it(serving: Serving, keys: Path) -> None:
    async with serving(echo, keys={"file": str(keys)}) as served:
        value = (await made(served))["value"]
        async with talking(served, **browser(value)) as talk:
            replace(keys, ours={"keys": [{"sha256": "0" * 64}]})
            assert await talk.closed() == 1008
        assert await refused(served, "/v1/realtime?model=demo", **browser(value)) == 401


async def test_where_no_key_is_asked_for_it_says_how_sessions_begin(serving: Serving) -> None:
    async with serving(echo) as served:
        value = (await made(served, session={"type": "realtime", "instructions": "Be brief."}))["value"]
        async with talking(served, **browser(value)) as talk:
            assert talk.heard[0]["session"]["instructions"] == "Be brief."
        assert await refused(served, "/v1/realtime?model=demo", **browser("ek_nonsense")) == 401


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"expires_after": {"anchor": "created_at", "seconds": 9}}, 400, "expires_after.seconds"),
        ({"session": {"type": "transcription"}}, 400, "session.type"),
        ({"session": {"type": "realtime", "model": "nothing"}}, 404, "model"),
        ({"session": {"type": "realtime", "output_modalities": ["audio"]}}, 400, "session.output_modalities"),
        ({"session": {"type": "realtime", "temperature": -1}}, 400, "session.temperature"),
        ({"sesion": {}}, 400, "sesion"),
    ],
)
async def test_what_is_wrong_is_named(serving: Serving, body: dict[str, Any], status: int, param: str) -> None:
    async with serving(echo) as served:
        answer = await served.post(PATH, body)
        assert (answer.status, answer.json["error"]["param"]) == (status, param)


async def test_what_does_not_fit_into_a_header_is_refused(serving: Serving) -> None:
    async with serving(echo) as served:
        long = "".join(chr(0x4E00 + (place * 7919) % 20_000) for place in range(4_000))
        answer = await served.post(PATH, {"session": {"type": "realtime", "instructions": long}})
        assert (answer.status, answer.json["error"]["param"]) == (400, "session")
        assert "session.update" in answer.json["error"]["message"]
