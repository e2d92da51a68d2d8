"""Statuses and bodies of refusals, as errors of the tree."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import (
    ContentFiltered,
    ContextOverflow,
    EngineFailed,
    InstanceLost,
    InvalidRequest,
    Overloaded,
    PenstockError,
    ProviderRefused,
    Quarantined,
    RateLimited,
    RequestTooLarge,
    Timeout,
    Unavailable,
)
from engines.remote.failures import Asked, response_error, retry_after_s
from engines.remote.openai_request import our_param

ASKED = Asked("remote-0", param="messages", our_param=our_param, secret="hunter2hunter2")


def error(status: int, body: Any = None, headers: dict[str, str] | None = None, asked: Asked = ASKED) -> PenstockError:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return response_error(status, text, headers or {}, asked)


def openai_error(message: str = "no", **fields: Any) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, openai_error(), InvalidRequest),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "wrong"}]}, InvalidRequest),
        (422, openai_error(code="quarantined"), Quarantined),
        (400, openai_error(code="content_filter"), ContentFiltered),
        (400, openai_error(innererror={"code": "ResponsibleAIPolicyViolation"}), ContentFiltered),
        (400, openai_error(code="context_length_exceeded"), ContextOverflow),
        (400, {"object": "error", "message": "This model's maximum context length is 8192 tokens."}, ContextOverflow),
        (400, {"type": "error", "error": {"message": "prompt is too long: 9 tokens > 8 maximum"}}, ContextOverflow),
        (408, None, Timeout),
        (413, None, RequestTooLarge),
        (429, openai_error(code="insufficient_quota"), RateLimited),
        (500, b"<html>", InstanceLost),
        (502, None, InstanceLost),
        (503, None, Unavailable),
        (504, None, Timeout),
        (529, None, Overloaded),
        (302, None, EngineFailed),
        (502, openai_error(code="provider_refused"), EngineFailed),
    ],
)
def test_a_status_and_a_body_are_an_error_of_the_tree(status: int, body: Any, expected: type) -> None:
    made = error(status, body)
    assert type(made) is expected
    assert made.instance == "remote-0"


@pytest.mark.parametrize(("status", "reason"), [(401, "unauthorized"), (403, "forbidden"), (404, "unknown_model")])
def test_a_refused_key_or_model_is_not_the_callers_fault(status: int, reason: str) -> None:
    made = error(status, openai_error("Incorrect API key provided: sk-abc***xyz"))
    assert isinstance(made, ProviderRefused)
    assert (made.status, made.reason, made.retryable) == (502, reason, False)
    assert "sk-" not in made.message


def test_a_wrong_field_has_our_name_and_their_words() -> None:
    made = error(400, openai_error("Too many.", param="max_completion_tokens"))
    assert (made.message, made.param) == ("Too many.", "sampling.max_tokens")


def test_an_overflow_says_how_much_fits() -> None:
    message = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
    made = error(400, openai_error(message))
    assert isinstance(made, ContextOverflow)
    assert (made.context_length, made.param) == (8192, "messages")
    made = error(400, openai_error(message), asked=Asked("remote-0", context_length=100))
    assert isinstance(made, ContextOverflow) and made.context_length == 100


@pytest.mark.parametrize(
    "secret",
    ["hunter2hunter2", "sk-proj-abcdefghijk", "https://internal.example/v1", "10.1.2.3:8000", "/srv/app/main.py"],
)
def test_no_secret_address_or_path_is_passed_on(secret: str) -> None:
    made = error(400, openai_error(f"It failed: {secret}, sorry.\n\x1b[31m" + "x" * 5000))
    assert secret not in made.message and "sorry" in made.message
    assert len(made.message) < 600 and made.message.isprintable()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e9"}, 3600.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected
    made = error(429, None, headers)
    assert made.retry_after_s == expected


def test_how_long_to_wait_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    seconds = retry_after_s({"retry-after": date})
    assert seconds is not None and 20 < seconds <= 30


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "param", "detail"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(status=st.integers(300, 599), body=st.binary(max_size=60) | json_values)
def test_any_refusal_is_an_error_of_the_tree(status: int, body: Any) -> None:
    made = error(status, body)
    assert isinstance(made, PenstockError)
    assert made.status not in (401, 403, 404)
