"""`penstock serve`: boots a fleet in front of the person's eyes, and ends it without a trace."""

import errno
import os
import queue
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil
from rich.console import Console

from clusters.api_client import status_without_key
from clusters.boot_screen import BootScreen
from clusters.errors import ClusterError
from clusters.fleet_protocol import Answering, ClusterUp, Failed, Instances, Job, Phase, Ready, Report
from clusters.needs import check_adapters, check_memory, check_packages, free_memory_bytes
from clusters.run_folder import new_folder
from clusters.spawned_fleet import SpawnedFleet
from deployments.fleet_settings import DatabaseSettings, FleetSettings
from deployments.http.key_source import is_loopback, key_source
from deployments.http.server.refusals import CannotListen
from deployments.loopback_ray import CLUSTER
from deployments.run_file import RunFile, running_fleets

_WITHOUT_KEY = {
    200: "No API key is asked for: whoever reaches this address may use the models.",
    401: "An API key is asked for: a request without one got 401.",
    503: "Nobody is let in: the API keys cannot be read (503). The logs say why, or `penstock keys push` sends them.",
}
_POLL_S = 0.1
_SHUTDOWN_S = 30.0
"""What Serve and Ray get to end, on top of the longest drain."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Counts the signals that ask for an end.

    Attributes:
        count: How many came: one asks, two insist.
        last: The last one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last = signal.SIGINT

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hears them in its body instead of their usual effect."""
        # Set for all even where they were ignored: a shell starts background jobs with SIGINT ignored.
        before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.last = signal.Signals(number)


def serve_fleet(
    fleet: FleetSettings, console: Console, *, address: str | None, wait: bool, asks_for_token: bool = True
) -> int:
    """Serves a fleet: a local one until it is told to stop, in a foreign cluster until it is ready.

    Args:
        fleet: What to serve.
        console: Where to show it.
        address: An existing Ray cluster; None: a local fleet.
        wait: Whether to wait for resources that the cluster does not have yet.
        asks_for_token: Whether the Ray of a local fleet asks for the user's token.

    Returns:
        The exit code: 0 for a fleet that was ready, 128 + signal for one that was stopped before.

    Raises:
        ClusterError: It cannot be started.
    """
    if address is None:
        _check_keys(fleet)
        fleet = _on_free_port(fleet)
        check_packages(fleet)
        check_adapters(fleet)
        check_memory(fleet, free_memory_bytes())
    folder = new_folder()
    if address is None and fleet.database is None:
        # On this machine all router replicas have it, and it is as private as the run's other files.
        fleet = fleet.model_copy(update={"database": DatabaseSettings(file=str(folder / "penstock.sqlite"))})
    stops = StopSignals()
    with stops.heard():
        job = Job(fleet=fleet, address=address, folder=folder, wait=wait)
        process = SpawnedFleet(job, asks_for_token=asks_for_token)
        run = RunFile(
            name=fleet.name,
            pid=os.getpid(),
            pid_created_s=psutil.Process().create_time(),
            host=fleet.http.host,
            port=fleet.http.port,
            tls=fleet.http.tls is not None,
            logs=folder,
        )
        if address is None:
            run.write()
        try:
            with BootScreen(console, fleet) as screen:
                return _Serving(process, run, fleet, console, screen, stops, is_local=address is None).run()
        finally:
            process.finish()
            run.remove()


def _check_keys(fleet: FleetSettings) -> None:
    """Returns if the fleet may listen where it is to: said before anything boots.

    Raises:
        ClusterError: It may not.
    """
    try:
        keys = key_source(fleet.http)
    except CannotListen as error:
        raise ClusterError(error.message) from None
    if fleet.http.keys.file is None and not fleet.http.keys.pushed and keys.problem:
        raise ClusterError(f"{keys.problem} Nobody could be let in.")


class _Serving:
    """One run of `penstock serve`, from the first report to the last."""

    def __init__(
        self,
        process: SpawnedFleet,
        run: RunFile,
        fleet: FleetSettings,
        console: Console,
        screen: BootScreen,
        stops: StopSignals,
        *,
        is_local: bool,
    ) -> None:
        self._process = process
        self._run = run
        self._fleet = fleet
        self._console = console
        self._screen = screen
        self._stops = stops
        self._is_local = is_local
        self._is_up = False
        self._was_ready = False

    def run(self) -> int:
        while not self._stops.count:
            try:
                report = self._process.reports.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if report is None:
                raise ClusterError(f"The fleet's process ended unexpectedly. Its logs: {self._run.logs}")
            self._take(report)
            if self._was_ready and not self._is_local:
                return 0
        self._stop()
        return 0 if self._was_ready else 128 + self._stops.last

    def _take(self, report: Report) -> None:
        match report:
            case Phase(text=text):
                self._screen.phase(text)
            case ClusterUp(address=ray_address):
                self._is_up = True
                if self._is_local:
                    self._run = self._run.model_copy(update={"ray_address": ray_address})
                    self._run.write()
            case Instances(rows=rows):
                self._screen.instances(rows)
            case Ready(addresses=addresses):
                self._was_ready = True
                self._screen.close()
                url = self._run.url if self._is_local else _first_url(self._run.url, addresses)
                # One that is not heard of here would only be waited for.
                is_heard = self._is_local or any(one.answers for one in addresses)
                status = status_without_key(url) if is_heard else None
                print_welcome(self._console, self._fleet, self._run, url, is_local=self._is_local, without_key=status)
                for line in address_lines(addresses, self._fleet):
                    self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            case Failed(message=message):
                self._screen.close()
                raise ClusterError(f"{message}\nIts logs: {self._run.logs}")

    def _stop(self) -> None:
        """Drains; a second signal, or a fleet that has nothing to drain yet, is not waited for."""
        self._screen.close()
        if not self._is_up:
            return
        asked = self._stops.count
        self._console.print("Ending the fleet; Ctrl-C again ends it without draining.")
        self._process.stop()
        fleet = self._fleet
        drain_s = max(fleet.http.drain_s, *(model.drain_timeout_s for model in fleet.deployed), 0.0)
        deadline = time.monotonic() + _SHUTDOWN_S + drain_s
        while not self._process.has_ended() and self._stops.count == asked and time.monotonic() < deadline:
            with suppress(queue.Empty):
                self._process.reports.get(timeout=_POLL_S)


def _first_url(otherwise: str, addresses: Sequence[Answering]) -> str:
    """The first address that answers; where none does, the first one."""
    return next((one.url for one in sorted(addresses, key=lambda one: not one.answers)), otherwise)


def address_lines(addresses: Sequence[Answering], fleet: FleetSettings) -> list[str]:
    """Where the router replicas of a fleet in a foreign cluster answer, for a person."""
    if not addresses:
        return []
    heard = sorted({one.url for one in addresses if one.answers})
    lines = [f"Answers at {', '.join(heard)}."] if heard else []
    silent = [one for one in addresses if not one.answers]
    if silent and is_loopback(fleet.http.host):
        nodes = ", ".join(sorted({one.node for one in silent}))
        lines.append(
            f"On {nodes} it answers programs of that node only: http.host is {fleet.http.host}. "
            "`--host 0.0.0.0` makes it answer others, too; think of API keys."
        )
    elif silent:
        lines.append(f"No answer came here from {', '.join(sorted({one.url for one in silent}))}.")
    return lines


def print_welcome(
    console: Console, fleet: FleetSettings, run: RunFile, url: str, *, is_local: bool, without_key: int | None
) -> None:
    """Says where the fleet answers, what a request without a key gets there, and how to ask: to be pasted.

    Args:
        console: Where to say it.
        fleet: What is served.
        run: Which run that is.
        url: Where it answers.
        is_local: Whether its Ray is a local one, of its own.
        without_key: The HTTP status that a request without a key got; None: it came to none.
    """
    model = fleet.models[0].name
    base = f"{url}/v1"
    keys = fleet.http.keys
    keyed = keys.file is not None or keys.pushed or bool(os.environ.get(fleet.http.keys_env))
    # The first of them, and by way of the input: arguments of a command are shown to every user of the machine.
    key = f"printf 'authorization: Bearer %s' \"${{{fleet.http.keys_env}%%,*}}\" | " if keyed else ""
    header = " -H @-" if keyed else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "count from 1 to 5"}}]}}'
    api_key = f'os.environ["{fleet.http.keys_env}"].split(",")[0]' if keyed else '"none"'
    lines = [
        "",
        f"{key}curl {base}/chat/completions -H 'content-type: application/json'{header} -d '{body}'",
        "",
        *(["import os"] if keyed else []),
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{base}", api_key={api_key})',
        'messages = [{"role": "user", "content": "count from 1 to 5"}]',
        f'print(client.chat.completions.create(model="{model}", messages=messages).choices[0].message.content)',
        "",
    ]
    console.print(f"Ready: [bold green]{base}[/]", highlight=False, soft_wrap=True)
    if without_key is not None:
        console.print(_WITHOUT_KEY.get(without_key, f"A request without a key got {without_key}."), highlight=False)
    if is_local:
        lines += [
            # Ray guards a local cluster with a token, and looks for it by itself only where no address is given.
            f'import os; os.environ.update(RAY_AUTH_MODE="token", {CLUSTER}="0")',
            "import ray",
            "from ray import serve",
            f'ray.init("{run.ray_address}")',
            f'print(serve.get_app_handle("{fleet.name}").complete.remote(',
            f'    {{"model": "{model}", "messages": messages}}).result().text)',
            "",
        ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if is_local:
        # Inside a checkout the command is not on the path.
        program = "penstock" if shutil.which("penstock") else sys.argv[0]
        console.print(
            f"Ctrl-C ends it. In another terminal: {program} chat, {program} status. Logs: {run.logs}",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )


def _on_free_port(fleet: FleetSettings) -> FleetSettings:
    """The fleet, with a port chosen where it asks for any (0).

    Raises:
        ClusterError: The port cannot be listened on; the message says why.
    """
    host, port = fleet.http.host, fleet.http.port
    for other in running_fleets():
        if other.port == port:
            raise ClusterError(
                f"The fleet {other.name!r} already runs on port {port} (process {other.pid}). "
                f"`penstock down --port {port}` ends it; `--port {port + 1}` starts this one beside it."
            )
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # A port that was closed a moment ago is free; one that is listened on is not.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen()
            port = int(listener.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ClusterError(
                f"Port {port} on {host} is taken by another program. Choose another one: --port {port + 1}"
            ) from None
        if error.errno == errno.EACCES:
            raise ClusterError(
                f"Port {port} needs an administrator's rights. Choose one from 1024 on: --port"
            ) from None
        reason = error.strerror or str(error)
        raise ClusterError(f"Cannot listen on {host}:{port}: {reason}. Choose another address: --host") from None
    return fleet.model_copy(update={"http": fleet.http.model_copy(update={"port": port})})
