"""`penstock serve` from the first line to the last process, on a simulated fleet."""

import json
import signal
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from tests.clusters.conftest import END_S, Penstock, Terminal, ask, free_port, until


def boot(terminal: Terminal, port: int) -> Penstock:
    started = terminal.start("serve", terminal.fleet_file(), "--port", str(port))
    started.wait_for("Ctrl-C ends it.")
    return started


@pytest.fixture(scope="module")
def fleet_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def fleet(shared_terminal: Terminal, fleet_port: int) -> Iterator[Terminal]:
    """A terminal in which a fleet runs."""
    boot(shared_terminal, fleet_port)
    yield shared_terminal


def test_it_is_ready_when_it_says_so_and_answers(fleet: Terminal, fleet_port: int) -> None:
    assert ask(fleet_port, "/ready") == (200, {"status": "ready"})
    body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    status, answer = ask(fleet_port, "/v1/chat/completions", body)
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 5


def test_it_prints_a_curl_line_and_a_client_to_paste(fleet: Terminal, fleet_port: int) -> None:
    lines = fleet.started[0].output.splitlines()
    assert "No API key is asked for: whoever reaches this address may use the models." in lines
    [curl] = [line for line in lines if line.startswith("curl ")]
    assert f"http://127.0.0.1:{fleet_port}/v1/chat/completions" in curl
    assert json.loads(curl.split("-d '")[1].removesuffix("'"))["model"] == "sim"
    snippet = lines[lines.index("from openai import OpenAI") : lines.index("") + 10]
    code = "\n".join(snippet[: next(i for i, line in enumerate(snippet) if line.startswith("print(")) + 1])
    printed: list[str] = []
    exec(code, {"print": printed.append})  # the very text that a person pastes
    assert printed[0]


def test_it_shows_no_wall_of_log_lines(fleet: Terminal) -> None:
    output = fleet.started[0].output
    assert len(output.splitlines()) < 30
    assert "INFO" not in output
    assert "WARNING" not in output


def test_status_finds_it_and_names_every_instance(fleet: Terminal) -> None:
    done = fleet.run("status")
    assert done.returncode == 0, done.stderr
    assert sum("ready" in line for line in done.stdout.splitlines() if line.startswith("sim-")) == 2
    assert "tokens per second" in done.stdout


def test_chat_streams_an_answer_and_ends_with_the_input(fleet: Terminal) -> None:
    done = fleet.run("chat", text="hello\n/reset\nhello again\n/quit\n")
    assert done.returncode == 0, done.stderr
    assert "Forgotten." in done.stdout
    assert len(done.stdout.split()) > 40


def test_chat_says_which_models_there_are(fleet: Terminal) -> None:
    done = fleet.run("chat", "--model", "nobody", text="hello\n")
    assert "'nobody'" in done.stdout
    assert "sim" in done.stdout


def test_a_second_one_on_its_port_says_who_is_there(fleet: Terminal, fleet_port: int) -> None:
    done = fleet.run("serve", fleet.fleet_file(), "--port", str(fleet_port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"The fleet 'penstock' already runs on port {fleet_port} ")
    assert f"penstock down --port {fleet_port}" in done.stderr


def test_down_ends_it_and_nothing_is_left(fleet: Terminal, fleet_port: int) -> None:
    done = fleet.run("down", timeout_s=END_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert fleet.started[0].process.wait(END_S) == 0
    assert fleet.processes() == []
    with socket.create_server(("127.0.0.1", fleet_port)):
        pass


def test_an_interrupt_ends_everything_and_a_second_start_works_at_once(terminal: Terminal, port: int) -> None:
    assert boot(terminal, port).interrupt() == 0
    assert terminal.processes() == []
    second = boot(terminal, port)
    assert ask(port, "/ready")[0] == 200
    assert second.interrupt(signal.SIGTERM) == 0
    assert terminal.processes() == []


def test_a_terminated_fleet_says_so_and_finishes_what_it_began(terminal: Terminal, port: int) -> None:
    terminal.fleet_file("http: {notice_s: 5}\nmodels: [{name: sim, engine: simulated, cpus: 0.1}]\n")
    started = terminal.start("serve", "fleet.yaml", "--port", str(port))
    started.wait_for("Ctrl-C ends it.")
    body = {"model": "sim", "prompt": "go on", "stream": True, "max_tokens": 1500, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=END_S) as answer:
        answer.readline()
        started.process.send_signal(signal.SIGTERM)
        until(lambda: ask(port, "/ready")[0] == 503)
        assert ask(port, "/live")[0] == 200
        assert b"[DONE]" in answer.read()
    assert started.process.wait(END_S) == 0
    assert terminal.processes() == []


def test_an_interrupt_while_it_boots_ends_everything(terminal: Terminal, port: int) -> None:
    started = terminal.start("serve", terminal.fleet_file(), "--port", str(port))
    started.wait_for("booting the instances")
    assert started.interrupt() == 128 + signal.SIGINT
    assert terminal.processes() == []
    assert terminal.run("down").returncode == 1


def test_an_interrupt_before_ray_is_there_ends_everything(terminal: Terminal, port: int) -> None:
    started = terminal.start("serve", terminal.fleet_file(), "--port", str(port))
    started.wait_for("starting Ray")
    assert started.interrupt() == 128 + signal.SIGINT
    assert terminal.processes() == []


def test_the_fleet_ends_also_when_the_command_line_is_killed(terminal: Terminal, port: int) -> None:
    boot(terminal, port).interrupt(signal.SIGKILL)
    until(lambda: terminal.processes() == [])
    assert terminal.run("status").returncode == 1


def test_an_engine_that_cannot_boot_is_one_reason_and_the_logs(terminal: Terminal, port: int) -> None:
    file = terminal.fleet_file(
        "models: [{name: broken, engine: scripted, options: {boot_error: "
        "{error: EngineFailed, message: no weights on this disk}}}]\n"
    )
    started = terminal.start("serve", file, "--port", str(port))
    assert started.process.wait(300) == 1
    assert "no weights on this disk" in started.output
    assert "Traceback" not in started.output
    assert "logs" in started.output
    assert terminal.processes() == []


def test_a_fleet_that_needs_more_gpus_than_there_are_says_what_is_missing(terminal: Terminal, port: int) -> None:
    file = terminal.fleet_file("models: [{name: big, engine: simulated, gpus: 3, replicas: 2}]")
    started = terminal.start("serve", file, "--port", str(port))
    assert started.process.wait(300) == 1
    assert "The cluster is too small: big: one instance needs 3 GPUs on one node" in started.output
    assert terminal.processes() == []


def test_with_wait_it_waits_visibly(terminal: Terminal, port: int) -> None:
    file = terminal.fleet_file("models: [{name: big, engine: simulated, gpus: 3, replicas: 2}]")
    started = terminal.start("serve", file, "--port", str(port), "--wait")
    started.wait_for("waiting for a larger cluster: big: one instance needs 3 GPUs")
    assert started.interrupt() == 128 + signal.SIGINT
    assert terminal.processes() == []
