"""Errors as Anthropic's client reads them: its classes, its types, the id of the request."""

from typing import Any

import anthropic
import pytest

from engines import errors
from engines.errors import InstanceLost, PenstockError
from tests.deployments.http.anthropic.talking import PATH, ask, client, events_of
from tests.deployments.http.conftest import HELLO, Serving

ASKED: dict[str, Any] = {"model": "demo", "max_tokens": 100, "messages": HELLO}

FAILURES: list[tuple[PenstockError, type[anthropic.APIStatusError], str]] = [
    (errors.InvalidRequest("No.", param="messages[0].content[1]"), anthropic.BadRequestError, "invalid_request_error"),
    (errors.Forbidden("No."), anthropic.PermissionDeniedError, "permission_error"),
    (errors.RequestTooLarge(9), anthropic.APIStatusError, "request_too_large"),
    (errors.Quarantined("No."), anthropic.UnprocessableEntityError, "invalid_request_error"),
    (errors.QueueTimeout("No."), anthropic.RateLimitError, "rate_limit_error"),
    (errors.EngineFailed("secret"), anthropic.InternalServerError, "api_error"),
]


@pytest.mark.parametrize(("error", "raised", "kind"), FAILURES, ids=[type(error).__name__ for error, _, _ in FAILURES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_error_before_anything_was_said(
    serving: Serving, error: PenstockError, raised: type[anthropic.APIStatusError], kind: str, stream: bool
) -> None:
    async with serving([error]) as served, client(served) as api:
        with pytest.raises(raised) as caught:
            await api.messages.create(**ASKED, stream=stream)
    answer = caught.value
    assert (answer.status_code, answer.type, answer.error_code) == (error.status, kind, error.code)
    assert answer.request_id and answer.body["request_id"] == answer.request_id  # type: ignore[index]
    assert "secret" not in str(answer)


async def test_an_answer_that_breaks_off_is_an_error_as_a_whole(serving: Serving) -> None:
    async with serving(["Hi", errors.Timeout("total", 3)]) as served:
        answer = await ask(served)
    assert (answer.status, answer.json["error"]["type"]) == (504, "timeout_error")


async def test_who_is_overloaded_says_when_to_come_again(serving: Serving) -> None:
    async with serving([errors.RateLimited("No.", retry_after_s=7)]) as served:
        answer = await ask(served)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    async with serving(engines=[]) as served:
        answer = await ask(served)
    assert (answer.status, answer.json["error"]["type"]) == (503, "overloaded_error")


async def test_a_key_is_asked_for_in_anthropics_header(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", "right")
    async with serving(["Hi"], api_keys_env="KEYS") as served:
        async with client(served, api_key="wrong") as api:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await api.messages.create(**ASKED)
        assert caught.value.type == "authentication_error" and caught.value.request_id
        for right in ({"api_key": "right"}, {"api_key": None, "auth_token": "right"}):
            async with client(served, **right) as api:
                assert (await api.messages.create(**ASKED)).content


async def test_an_error_in_a_stream_is_an_event_and_the_end(serving: Serving) -> None:
    async with serving(["Hi", 0.01, InstanceLost("It died.")]) as served, client(served) as api:
        answer = await ask(served, stream=True)
        *_, last = events_of(answer.body)
        assert last == {
            "type": "error",
            "error": {"type": "api_error", "message": "It died.", "details": {"error_code": "instance_lost"}},
            "request_id": answer.headers["request-id"],
        }
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for _ in await api.messages.create(**ASKED, stream=True):
                pass
    assert caught.value.type == "api_error"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", PATH, 405), ("POST", PATH, 415), ("POST", f"{PATH}/count_tokens", 415)]
)
async def test_every_answer_names_the_request_as_this_api_does(
    serving: Serving, method: str, path: str, status: int
) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.request(method, path, headers={"x-request-id": "mine"}, data=b"text")
        assert (answer.status, answer.json["type"], answer.headers["request-id"]) == (status, "error", "mine")
        assert "request-id" not in (await served.chat()).headers
        assert (await ask(served)).headers["request-id"]
        assert (await ask(served, stream=True)).headers["request-id"]
