import pytest

from tests.deployments.http.conftest import Serving

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
    async with serving(["Hi"], api_keys_env="PENSTOCK_TEST_UNSET") as served:
        assert (await served.chat()).status == 200
