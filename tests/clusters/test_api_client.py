"""The commands' client of a fleet: whom it shows the key, and what it lets a terminal see."""

import io
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clusters.api_client import ApiClient, auth_headers, is_here, status_without_key
from clusters.chat_command import Chat
from clusters.errors import ClusterError
from clusters.serve_command import print_welcome
from clusters.terminal_text import printable
from deployments.fleet_settings import FleetSettings
from deployments.run_file import RunFile

KEY = "sk-first"
EVIL = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\x00e\rf\ud800g\n\th\u05d0\u200d"
SHOWN = "a]0;ownedb2JcdefG\n\th\u05d0\u200d".replace("G", "g")


class Server(ThreadingHTTPServer):
    """Answers everything alike, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.headers, self.body = 200, dict[str, str](), b"{}"
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers.get("content-length", 0)))
        server.asked.append((self.path, self.headers.get("authorization")))
        self.send_response(server.status)
        for name, value in {**server.headers, "content-length": str(len(server.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    yield from _running()


@pytest.fixture
def other() -> Iterator[Server]:
    yield from _running()


def _running() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", f" , {KEY} , sk-second")
    monkeypatch.delenv("PENSTOCK_PLAIN_HTTP_HOSTS", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_first_key_is_shown_to_the_fleet(server: Server) -> None:
    ApiClient(server.url).get_json("/v1/models")
    assert server.asked == [("/v1/models", f"Bearer {KEY}")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("asks", ["get", "post"])
def test_no_redirect_is_followed(server: Server, other: Server, status: int, asks: str) -> None:
    server.status, server.headers = status, {"location": f"{other.url}/v1/models"}
    client = ApiClient(server.url)
    with pytest.raises(ClusterError, match=f"sends its clients to {other.url}/v1/models.*--url"):
        if asks == "get":
            client.models()
        else:
            list(client.stream_chat("m", []))
    assert len(server.asked) == 1
    assert not other.asked


@pytest.mark.parametrize(
    "url",
    ["http://fleet.example:8000", "http://192.0.2.1:8000", "http://127.0.0.1.example", "http://localhost.example"],
)
def test_no_key_goes_unencrypted_to_another_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match=r"PENSTOCK_API_KEYS would go unencrypted to .* PENSTOCK_PLAIN_HTTP_HOSTS="):
        ApiClient(url)
    with pytest.raises(ClusterError, match="unencrypted"):
        auth_headers(url)
    monkeypatch.setenv("PENSTOCK_PLAIN_HTTP_HOSTS", "other.example, fleet.example,192.0.2.1")
    if "127" not in url and "localhost" not in url:
        assert auth_headers(url) == {"authorization": f"Bearer {KEY}"}
    monkeypatch.delenv("PENSTOCK_API_KEYS")
    ApiClient(url)  # Without a key there is nothing to lose.


@pytest.mark.parametrize("url", ["https://fleet.example", "http://localhost:1", "http://127.0.0.9", "http://[::1]:1"])
def test_it_goes_where_nobody_listens_in(url: str) -> None:
    assert auth_headers(url) == {"authorization": f"Bearer {KEY}"}


def test_this_machines_own_addresses_are_here() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    assert is_here(f"http://{address}:8000")


def test_a_proxy_does_not_see_what_stays_here(server: Server, other: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", other.url)
    ApiClient(server.url).get_json("/v1/models")
    assert len(server.asked) == 1
    assert not other.asked


def test_an_address_that_cannot_be_read_is_one_line() -> None:
    with pytest.raises(ClusterError, match="no address of a fleet"):
        ApiClient("http://[::1:8000")


def test_what_a_terminal_would_obey_is_left_out() -> None:
    assert printable(EVIL) == SHOWN


def test_chat_shows_an_answer_without_it_and_keeps_what_was_said(server: Server) -> None:
    call = {"index": 0, "function": {"name": "f\x1b[2J", "arguments": "{\x9b}"}}
    deltas = [{"content": EVIL}, {"reasoning_content": EVIL}, {"tool_calls": [call]}]
    chunks = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    server.body = "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"]).encode()
    output = io.StringIO()
    chat = Chat(ApiClient(server.url), "m\x1b[2J", "", Console(file=output, width=500))
    chat.ask("hello")
    assert SHOWN.splitlines()[0] in output.getvalue()
    assert not set("\x1b\x9b\u202e\x07\x00\r") & set(output.getvalue())
    assert chat.messages[-1]["content"] == EVIL


@pytest.mark.parametrize("status", [200, 400])
def test_errors_are_shown_without_it(server: Server, status: int) -> None:
    error = json.dumps({"error": {"message": EVIL}})
    server.status, server.body = status, error.encode() if status == 400 else f"data: {error}\n\n".encode()
    with pytest.raises(ClusterError) as raised:
        list(ApiClient(server.url).stream_chat("m", []))
    assert raised.value.message == SHOWN


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_line_works_with_several_keys_and_shows_none(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", f"{KEY}, sk-second")
    fleet = FleetSettings.model_validate({"models": [{"name": "m", "engine": "simulated"}]})
    port = server.server_address[1]
    run = RunFile(name="f", pid=1, pid_created_s=0, host="127.0.0.1", port=port, logs=tmp_path)
    output = io.StringIO()
    print_welcome(Console(file=output, width=500), fleet, run, server.url, is_local=True, without_key=401)
    lines = output.getvalue().splitlines()
    [line] = [line for line in lines if "curl " in line]
    subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=60, env=dict(os.environ))
    assert server.asked == [("/v1/chat/completions", f"Bearer {KEY}")]
    assert KEY not in output.getvalue()
    # Every user of the machine sees the arguments of curl, so the shell must not put the key there.
    assert "PENSTOCK" not in line.partition("curl ")[2]
    [client] = [line for line in lines if line.startswith("client = ")]
    made: dict[str, Any] = {}
    exec(client, {"os": os, "OpenAI": lambda **options: made.update(options)})  # the very text that a person pastes
    assert made["api_key"] == KEY


@pytest.mark.parametrize("status", [200, 401, 503])
def test_what_a_request_without_a_key_gets_is_found_out_by_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", KEY)
    server.status, server.body = status, b"{}"
    assert status_without_key(server.url) == status
    assert server.asked == [("/v1/models", None)]


def test_where_nothing_answers_nothing_is_said_of_keys() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert status_without_key(f"http://127.0.0.1:{unused.getsockname()[1]}") is None
