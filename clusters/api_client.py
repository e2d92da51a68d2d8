"""A small client of the fleet's HTTP face, for the commands that talk to a fleet which runs already."""

import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from clusters.errors import ClusterError
from clusters.terminal_text import printable
from deployments.fleet_settings import KEYS_ENV
from deployments.own_address import is_own_address
from deployments.tenants.keys import listed_keys

_TIMEOUT_S = 10.0
_STREAM_TIMEOUT_S = 600.0
_REDIRECTS = range(300, 400)
_MAX_LOCATION_CHARS = 200
PLAIN_HOSTS_ENV = "PENSTOCK_PLAIN_HTTP_HOSTS"
"""Hosts, separated by commas, that the key is sent to although their address is plain http."""


def auth_headers(url: str) -> dict[str, str]:
    """What shows the server at an address the key, if there is one: the first in the variable that servers read.

    Raises:
        ClusterError: The key would cross a network unencrypted, to a host for which the person has not allowed that.
    """
    keys = listed_keys(os.environ.get(KEYS_ENV, ""))
    if not keys:
        return {}
    parts = urlsplit(url)
    allowed = [host.strip().lower() for host in os.environ.get(PLAIN_HOSTS_ENV, "").split(",")]
    if parts.scheme != "https" and not is_here(url) and parts.hostname not in allowed:
        raise ClusterError(
            f"The key in {KEYS_ENV} would go unencrypted to {parts.hostname}. Use https, unset the variable, or "
            f"allow it for that host: {PLAIN_HOSTS_ENV}={parts.hostname}"
        )
    return {"authorization": f"Bearer {keys[0]}"}


def is_here(url: str) -> bool:
    """Whether what is sent to this address does not leave the machine: `localhost`, or an address of its own.

    Other names are not: whoever answers for them may answer differently next time.
    """
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return not address.is_unspecified and is_own_address(host, family)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key and the conversation are for the address that the person named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """urllib's: no other request is made, and the answer stays what it is."""


def trusting_anybody() -> ssl.SSLContext:
    """TLS with whoever answers: for what is no secret, as whether a server of this machine is ready."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _opener(url: str, context: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    # A proxy of the environment would see what is meant for this machine.
    proxies = [urllib.request.ProxyHandler({})] if is_here(url) else []
    return urllib.request.build_opener(_NoRedirects(), urllib.request.HTTPSHandler(context=context), *proxies)


class ApiClient:
    """Talks to one fleet.

    Args:
        url: Where it answers (`http://127.0.0.1:8000`); a trailing `/v1` is taken off.

    Raises:
        ClusterError: It is no address of a fleet, or the key must not be sent there.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise ClusterError(f"{url!r} is no address of a fleet; one looks like http://127.0.0.1:8000")
        try:
            self._headers = {"content-type": "application/json"} | auth_headers(self.url)
            self._opener = _opener(self.url)
        except ValueError as error:
            raise ClusterError(f"{url!r} is no address of a fleet: {error}") from None

    def get_text(self, path: str) -> str:
        """The body of a GET.

        Raises:
            ClusterError: There is no good answer.
        """
        with self._open(path, None, _TIMEOUT_S) as answer:
            return printable(answer.read().decode(errors="replace"))

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
                        raise ClusterError(printable(str(chunk["error"].get("message", chunk["error"]))))
                    yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"The answer broke off: {error or type(error).__name__}") from None

    def _open(self, path: str, body: bytes | None, timeout_s: float) -> Any:
        request = urllib.request.Request(self.url + path, data=body, headers=self._headers)  # noqa: S310 - http(s)
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            if error.code in _REDIRECTS:
                where = printable(error.headers.get("location", "nowhere"))[:_MAX_LOCATION_CHARS]
                raise ClusterError(
                    f"{self.url} sends its clients to {where}. If that is the fleet, name it: --url"
                ) from None
            message = error_message(error.read().decode(errors="replace"))
            raise ClusterError(
                message if message is not None else printable(f"HTTP {error.code} {error.reason}")
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ClusterError(
                    f"The certificate of {self.url} is not trusted here: {reason.verify_message}. Set SSL_CERT_FILE to "
                    "a file with its authority's certificate, or name the address that it is for: --url"
                ) from None
            raise ClusterError(f"Nothing answers at {self.url} ({reason}). `penstock serve` starts a fleet.") from None


def status_without_key(url: str) -> int | None:
    """The HTTP status that a request without a key gets from the fleet at that address; None: nothing answers."""
    try:
        with _opener(url, trusting_anybody()).open(f"{url}/v1/models", timeout=_TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def error_message(body: str) -> str | None:
    """What an error's body says; None when it is not one of the API's."""
    try:
        return printable(str(json.loads(body)["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return None
