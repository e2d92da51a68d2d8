"""A small client of the fleet's HTTP face, for the commands that talk to a fleet which runs already."""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any

from clusters.errors import ClusterError

_TIMEOUT_S = 10.0
_STREAM_TIMEOUT_S = 600.0
API_KEYS_ENV = "PENSTOCK_API_KEYS"
"""The same variable that the server reads; the first key in it is sent."""


def auth_headers() -> dict[str, str]:
    """What shows the server the key, if there is one."""
    key = os.environ.get(API_KEYS_ENV, "").split(",")[0].strip()
    return {"authorization": f"Bearer {key}"} if key else {}


class ApiClient:
    """Talks to one fleet.

    Args:
        url: Where it answers (`http://127.0.0.1:8000`); a trailing `/v1` is taken off.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise ClusterError(f"{url!r} is no address of a fleet; one looks like http://127.0.0.1:8000")

    def get_text(self, path: str) -> str:
        """The body of a GET.

        Raises:
            ClusterError: There is no good answer.
        """
        with self._open(path, None, _TIMEOUT_S) as answer:
            return str(answer.read().decode())

    def get_json(self, path: str) -> Any:
        """The JSON of a GET.

        Raises:
            ClusterError: There is no good answer.
        """
        text = self.get_text(path)
        try:
            return json.loads(text)
        except ValueError:
            raise ClusterError(f"What answers at {self.url} is no Penstock fleet.") from None

    def models(self) -> list[str]:
        """Names of the models that are served.

        Raises:
            ClusterError: There is no good answer.
        """
        answer = self.get_json("/v1/models")
        return [str(model["id"]) for model in answer.get("data", [])]

    def stream_chat(self, model: str, messages: list[dict[str, Any]]) -> Generator[dict[str, Any]]:
        """The chunks of a streamed chat completion. Closing the iterator ends the answer.

        Raises:
            ClusterError: It failed, at the start or on the way.
        """
        body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
        try:
            with self._open("/v1/chat/completions", body, _STREAM_TIMEOUT_S) as answer:
                for line in answer:
                    data = line.decode().strip().removeprefix("data:").strip()
                    if not line.startswith(b"data:") or data == "[DONE]":
                        continue
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise ClusterError(str(chunk["error"].get("message", chunk["error"])))
                    yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"The answer broke off: {error or type(error).__name__}") from None

    def _open(self, path: str, body: bytes | None, timeout_s: float) -> Any:
        headers = {"content-type": "application/json"} | auth_headers()
        request = urllib.request.Request(self.url + path, data=body, headers=headers)  # noqa: S310 - http(s), see above
        try:
            return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
        except urllib.error.HTTPError as error:
            message = error_message(error.read().decode(errors="replace"))
            raise ClusterError(message if message is not None else f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ClusterError(f"Nothing answers at {self.url} ({reason}). `penstock serve` starts a fleet.") from None


def error_message(body: str) -> str | None:
    """What an error's body says; None when it is not one of the API's."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
