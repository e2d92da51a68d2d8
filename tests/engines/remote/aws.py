"""AWS's side of Bedrock: event streams as it frames them, and signatures as it checks them."""

import base64
import json
import struct
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.engines.remote.replay import Question, Reply

EVENT_STREAM = "application/vnd.amazon.eventstream"
ACCESS_KEY, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "session/token=="


def set_account(patch: pytest.MonkeyPatch, folder: Path, secret: str = SECRET) -> None:
    """Makes the environment that of the account, and leaves nothing else that botocore could find.

    Args:
        patch: Sets it, and takes it back.
        folder: Where AWS's files `config` and `credentials` would be.
        secret: The account's secret key.
    """
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def header(name: str, value: str) -> bytes:
    return _name(name) + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()


def _name(name: str) -> bytes:
    return struct.pack(">B", len(name)) + name.encode()


def frame(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def chunk(event: Any) -> bytes:
    """An event of the Messages API, as Bedrock wraps it."""
    payload = json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abcdefgh"}).encode()
    headers = header(":event-type", "chunk") + header(":content-type", "application/json")
    return frame(headers + header(":message-type", "event"), payload)


def exception(type: str, message: str, **fields: Any) -> bytes:
    headers = header(":exception-type", type) + header(":message-type", "exception")
    return frame(headers, json.dumps({"message": message, **fields}).encode())


def from_sse(stream: bytes) -> bytes:
    """Whole lines of a stream of Anthropic's own API, as Bedrock frames it; it has no pings, and errors of its own."""
    return b"".join(_framed(json.loads(line[6:])) for line in stream.splitlines() if line.startswith(b"data: "))


def _framed(event: Any) -> bytes:
    match event["type"]:
        case "ping":
            return b""
        case "error":
            return exception("modelStreamErrorException", event["error"]["message"])
    return chunk(event)


def refusal(status: int, type: str, message: str, **headers: str) -> Reply:
    body = json.dumps({"message": message}).encode()
    names = {"x-amzn-ErrorType": f"{type}:http://internal.example/", **headers}
    return Reply([body], status, headers=names, type="application/json")


def signature_is_right(question: Question, region: str) -> bool:
    """Whether a request came as it was signed; needs botocore."""
    auth, awsrequest, credentials = (
        import_module(f"botocore.{name}") for name in ("auth", "awsrequest", "credentials")
    )
    algorithm, rest = question.headers["authorization"].split(" ", 1)
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    signed = fields["SignedHeaders"].split(";")
    token = question.headers.get("x-amz-security-token")
    signer = auth.SigV4Auth(credentials.ReadOnlyCredentials(ACCESS_KEY, SECRET, token), "bedrock", region)
    request = awsrequest.AWSRequest(
        method=question.method,
        url=f"http://{question.headers['host']}{question.path}",
        data=question.raw,
        headers={name: question.headers[name] for name in signed if name != "host"},
    )
    request.context["timestamp"] = question.headers["x-amz-date"]
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    scope = f"{ACCESS_KEY}/{question.headers['x-amz-date'][:8]}/{region}/bedrock/aws4_request"
    needed = {"host", "content-type", "x-amz-date"} <= set(signed)
    return (algorithm, fields["Credential"], fields["Signature"]) == ("AWS4-HMAC-SHA256", scope, expected) and needed
