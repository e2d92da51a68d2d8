import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from clusters.answering import answering
from clusters.fleet_protocol import Answering
from clusters.serve_command import address_lines
from deployments.fleet_settings import FleetSettings

FLEET = {"models": [{"name": "m", "engine": "simulated"}]}


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/live" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses_that_answer_are_told_from_those_that_do_not(url: str) -> None:
    with socket.socket() as taken, socket.socket() as silent:
        taken.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # Takes connections, and says nothing.
        others = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in (taken, silent)]
        assert answering([*others, url]) == {url}


def test_each_address_is_said_with_what_came_of_it() -> None:
    fleet = FleetSettings.model_validate(
        {"models": [{"name": "m", "engine": "simulated"}], "http": {"host": "0.0.0.0"}}
    )
    one, other = (f"http://10.0.0.{number}:8000" for number in (1, 2))
    addresses = [
        Answering(url=one, node="10.0.0.1", answers=True),
        Answering(url=other, node="10.0.0.2", answers=False),
    ]
    assert address_lines(addresses, fleet) == [f"Answers at {one}.", f"No answer came here from {other}."]
    assert address_lines([], fleet) == []


def test_what_listens_on_loopback_is_said_to_be_for_its_own_node() -> None:
    fleet = FleetSettings.model_validate(FLEET)
    addresses = [
        Answering(url="http://127.0.0.1:8000", node=node, answers=answers)
        for node, answers in (("10.0.0.1", True), ("10.0.0.2", False))
    ]
    first, second = address_lines(addresses, fleet)
    assert first == "Answers at http://127.0.0.1:8000."
    assert second.startswith("On 10.0.0.2 it answers programs of that node only: http.host is 127.0.0.1.")
