"""What a remote server says of its failures, in the words of the contract."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from engines.errors import (
    ContentFiltered,
    ContextOverflow,
    EngineFailed,
    EngineFault,
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
from engines.remote.sse import MalformedStream, ServerSentEvent

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 3600.0
_HIDDEN = "[hidden]"
_SECRETS = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|key)[-_][\w*.-]{6,}|\bBearer\s+\S+|https?://\S+|"
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|(?<![\w/])/(?:[\w.-]+/)+[\w.-]*",
    re.IGNORECASE,
)
_OVERFLOW = re.compile(
    r"context[ _](?:length|window|size|limit)|(?:prompt|input) is too long|too many (?:input )?tokens|"
    r"maximum .{0,20}tokens",
    re.IGNORECASE,
)
_LENGTH = re.compile(r"context (?:length|window|limit)[^0-9]{0,40}(\d{2,9})|> (\d{2,9}) maximum", re.IGNORECASE)
_FILTERS = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
# Errors inside a stream have no status of their own; of the words that APIs have, these tell it.
_STATUS = {
    "authentication_error": 401,
    "billing_error": 402,
    "content_filter": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_request": 400,
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "quarantined": 422,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "service_unavailable_error": 503,
    "timeout": 504,
    "timeout_error": 504,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to a server, as far as its errors need to know it.

    Attributes:
        engine: Name of the engine that asks.
        param: What of our request is most likely wrong where the server does not say, as with a prompt that is too
            long; None: nothing in particular.
        our_param: Our name of a field of the server's.
        context_length: Most tokens that the model takes; 0 when unknown.
        secret: The API key that was sent.
        began_s: When it was sent, by `time.monotonic`.
    """

    engine: str
    param: str | None = None
    our_param: Callable[[str], str | None] = lambda theirs: None
    context_length: int = 0
    secret: str | None = field(default=None, repr=False)
    began_s: float = field(default_factory=time.monotonic)

    def clean(self, message: str) -> str:
        """A server's message on one line, short, without keys, addresses and paths."""
        if self.secret:
            message = message.replace(self.secret, _HIDDEN)
        message = " ".join("".join(char if char.isprintable() else " " for char in message[:10_000]).split())
        message = _SECRETS.sub(_HIDDEN, message)
        return message if len(message) <= MAX_MESSAGE_CHARS else message[:MAX_MESSAGE_CHARS] + "..."


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error as a server writes it; empty where it says nothing.

    Attributes:
        message: Its text.
        words: Its `code` and `type`, and the code inside of it where there is one.
        param: The field that it is about.
        status: The status in its `code`, where that is one.
    """

    message: str = ""
    words: tuple[str, ...] = ()
    param: str = ""
    status: int | None = None


def parse_error(payload: Any) -> ErrorBody | None:
    """The error in a JSON value: OpenAI's, Anthropic's, vLLM's and FastAPI's shapes. None: there is none in it."""
    if not isinstance(payload, dict):
        return None
    error = payload.get("error")
    if error is None:
        if payload.get("object") == "error" or (payload.get("type") == "error" and "message" in payload):
            error = payload
        elif "detail" in payload:
            error = {"message": payload["detail"]}
        elif payload.keys() <= {"message", "code", "type", "status"} and isinstance(payload.get("message"), str):
            error = payload
        else:
            return None
    if not isinstance(error, dict):
        error = {"message": error}
    inner = error.get("innererror")
    code = error.get("code")
    message = error.get("message")
    words = (code, error.get("type"), inner.get("code") if isinstance(inner, dict) else None)
    param = error.get("param")
    return ErrorBody(
        message=message if isinstance(message, str) else "" if message is None else json.dumps(message),
        words=tuple(word for word in words if isinstance(word, str)),
        param=param if isinstance(param, str) else "",
        status=_as_status(code),
    )


def stream_error(payload: Any, asked: Asked) -> PenstockError | None:
    """The error that an event of a stream is, or None where it is none."""
    body = parse_error(payload)
    if body is None:
        return None
    status = body.status or next((_STATUS[word] for word in body.words if word in _STATUS), 500)
    return status_error(status, body, asked)


def json_event(event: ServerSentEvent, what: str, asked: Asked) -> dict[str, Any]:
    """The JSON object that an event of a stream is.

    Args:
        event: The event.
        what: What it should be, for errors: "a chunk".
        asked: What was asked.

    Raises:
        PenstockError: It is an error.
        MalformedStream: It is neither.
    """
    try:
        theirs = json.loads(event.data)
    except (ValueError, RecursionError):
        raise MalformedStream("an event is not JSON") from None
    error = stream_error(theirs, asked)
    if error is not None:
        raise error
    if event.type == "error" or not isinstance(theirs, dict):
        raise MalformedStream(f"an event is neither {what} nor an error")
    return theirs


def response_error(status: int, body: bytes, headers: Mapping[str, str], asked: Asked) -> PenstockError:
    """The error that an answer of that status is.

    Args:
        status: The answer's status, 300 or more.
        body: Its body, or the beginning of it.
        headers: Its headers.
        asked: What was asked.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        # A proxy's page, perhaps: nothing that a caller could read.
        payload = None
    error = status_error(status, parse_error(payload) or ErrorBody(), asked)
    error.retry_after_s = retry_after_s(headers)
    return error


def status_error(status: int, body: ErrorBody, asked: Asked) -> PenstockError:
    """The error of a status, and of what is said with it."""
    said = asked.clean(body.message)
    where = f"The server behind {asked.engine}"
    error: PenstockError
    if status == 429:
        error = RateLimited(f"{where} limits its requests: {said or 'no reason given'}")
    elif status == 529:
        error = Overloaded(f"{where} is overloaded.")
    elif status == 503:
        error = Unavailable(f"{where} cannot take requests now.")
    elif status in (408, 504):
        error = Timeout("first_token", round(time.monotonic() - asked.began_s, 3))
    elif status == 401:
        error = ProviderRefused(f"{where} does not accept our API key.", reason="unauthorized")
    elif status in (402, 403):
        error = ProviderRefused(f"{where} does not let our API key do this ({status}).", reason="forbidden")
    elif status in (404, 405):
        error = ProviderRefused(f"{where} does not know the model, or has no such route.", reason="unknown_model")
    elif status == 413:
        error = RequestTooLarge(None)
    elif 400 <= status < 500:
        error = _request_error(body, said, asked)
    elif "engine_fault" in body.words:
        error = EngineFault(f"{where} failed again and again on this request.")
    elif "provider_refused" in body.words:
        error = EngineFailed(f"{where} is itself refused by its provider.")
    elif 300 <= status < 400:
        error = EngineFailed(f"{where} sends requests elsewhere ({status}); its base_url is not right.")
    else:
        error = InstanceLost(f"{where} failed ({status}): {said or 'no reason given'}")
    return error.at(asked.engine)


def _request_error(body: ErrorBody, said: str, asked: Asked) -> PenstockError:
    param = (asked.our_param(body.param) if body.param else None) or None
    if "quarantined" in body.words:
        return Quarantined(said or "The request was refused.")
    if any(word in _FILTERS for word in body.words):
        return ContentFiltered(said or "The content filter refused the prompt.", param=param or asked.param)
    if "context_length_exceeded" in body.words or _OVERFLOW.search(body.message):
        found = _LENGTH.search(body.message)
        length = asked.context_length or (int(found[1] or found[2]) if found else 0)
        message = said or "The prompt does not fit the context of the model."
        return ContextOverflow(message, context_length=length, param=param or asked.param)
    return InvalidRequest(said or "The server refused the request and gave no reason.", param=param)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds in `retry-after-ms` or `Retry-After`, which may be a date; at most an hour. None: there are none."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        try:
            seconds = float(given) * unit
        except ValueError:
            seconds = _until(given)
        if math.isfinite(seconds):
            return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
    return None


def _until(date: str) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return math.nan
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return (then - datetime.now(UTC)).total_seconds()


def _as_status(code: Any) -> int | None:
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None
