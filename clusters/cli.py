"""The command line: `penstock serve | status | chat | check | build | keys | chaos | down`.

A person's mistake costs one line on the error stream and exit code 1, never a traceback.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clusters.build_command import build
from clusters.chaos.streamed_apis import Api
from clusters.errors import ClusterError
from clusters.fleet_file import DEMO_FLEET, load_fleet
from clusters.keys_command import keys_app
from deployments.fleet_settings import FleetSettings
from deployments.loopback_ray import prepare_to_join
from deployments.private_folder import NotPrivate
from deployments.run_file import FleetNotFound
from deployments.settings_file.problems import SettingsFileError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(keys_app, name="keys")

FleetArgument = Annotated[Path | None, typer.Argument(metavar="[FLEET.yaml]", help="The fleet; default: the demo.")]
PortOfFleet = Annotated[int | None, typer.Option(help="Port of the local fleet, where several run.")]
Url = Annotated[str | None, typer.Option(help="Address of the fleet; default: the local one.")]


def _show_version(asked: bool) -> None:
    if asked:
        Console().print(version("penstock"))
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Shows the version, and ends.")
    ] = False,
) -> None:
    """Serves a fleet of LLM engines on Ray."""


@app.command()
def serve(
    fleet: FleetArgument = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="An existing Ray cluster (host:port, or `auto`); the fleet stays there when this ends."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for resources that the cluster does not have yet.")
    ] = False,
    ray_auth: Annotated[
        bool, typer.Option("--ray-auth/--no-ray-auth", help="Whether the local Ray asks for the user's token.")
    ] = True,
) -> None:
    """Starts a fleet: on a local Ray of its own, or on an existing cluster."""
    from clusters.serve_command import serve_fleet

    settings = _listening_on(load_fleet(fleet or DEMO_FLEET), host, port)
    if address is not None:
        if not ray_auth:
            raise ClusterError("--no-ray-auth is for a local fleet; with --address that cluster asks for its token.")
        prepare_to_join(address)
    raise typer.Exit(serve_fleet(settings, Console(), address=address, wait=wait, asks_for_token=ray_auth))


@app.command()
def status(
    url: Url = None,
    port: PortOfFleet = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it; Ctrl-C ends that.")] = False,
) -> None:
    """Shows the instances of a running fleet, and how busy they are."""
    from clusters.status import show_status

    show_status(_url(url, port), Console(), watch=watch)


@app.command()
def chat(
    model: Annotated[str | None, typer.Option(help="Which model; default: the first that is served.")] = None,
    url: Url = None,
    port: PortOfFleet = None,
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
) -> None:
    """Talks to a model of a running fleet."""
    from clusters.api_client import ApiClient
    from clusters.chat_command import Chat

    client = ApiClient(_url(url, port))
    served = client.models()
    if model is None and not served:
        raise ClusterError("The fleet serves no model.")
    Chat(client, model or served[0], system, Console()).run()


@app.command()
def check(
    fleet: FleetArgument = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster (host:port, or `auto`), of which is said whether it is ready.")
    ] = None,
) -> None:
    """Checks a fleet file, and says what it would start."""
    from clusters.fleet_summary import summary

    file = fleet or DEMO_FLEET
    settings = load_fleet(file)
    console = Console()
    console.print(f"{file} is right.", highlight=False, soft_wrap=True)
    console.print(summary(settings))
    if address is not None:
        prepare_to_join(address)
        _check_cluster(settings, address, console)


def _check_cluster(fleet: FleetSettings, address: str, console: Console) -> None:
    from clusters.preflight import preflight
    from clusters.ray_cluster import join

    join(address, fleet.name)
    console.print(f"The cluster at {address}:", highlight=False, soft_wrap=True)
    found = preflight(fleet)
    for finding in found:
        console.print(f"  {finding}", highlight=False, markup=False, soft_wrap=True)
    if wrong := sum(finding.state == "wrong" for finding in found):
        raise ClusterError(f"The cluster is not ready for the fleet: {wrong} of {len(found)} are wrong.")


app.command()(build)


@app.command()
def chaos(
    fault: Annotated[
        list[str] | None, typer.Argument(metavar="[FAULT]...", help="Which faults; default: all but kill-node.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which model counts; default: the first that is served.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="So many clients, each asks again once it was answered.")] = 20,
    open_per_s: Annotated[
        float | None,
        typer.Option("--open", min=0.1, help="Instead: so many requests a second, whatever becomes of the others."),
    ] = None,
    api: Annotated[
        Api, typer.Option(help="The API that is asked; realtime: each request is a turn of a session of its own.")
    ] = Api.CHAT,
    length: Annotated[
        int | None, typer.Option(min=2, max=999, help="Numbers of each answer; default: 300, or 100 with --open.")
    ] = None,
    times: Annotated[int, typer.Option(min=1, help="How often each fault happens.")] = 1,
    recovery_s: Annotated[float, typer.Option(min=1, help="Seconds to full capacity after a fault.")] = 300.0,
    port: PortOfFleet = None,
    url: Url = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster of a fleet that is not local; needs --url.")] = None,
    name: Annotated[str, typer.Option(help="Name of that fleet.")] = "penstock",
) -> None:
    """Harms a running fleet on purpose, under load, and shows what its clients saw. Not for production hours."""
    from deployments.run_file import find_fleet

    if address is None:
        local = find_fleet(port)
        url, name, address = local.url, local.name, local.ray_address
    elif url is None:
        raise ClusterError("With --address, say where the fleet answers, too: --url http://HOST:8000")
    prepare_to_join(address)
    from clusters.chaos.command import Where, chaos_command
    from clusters.chaos.counting import Arrivals

    arrivals = Arrivals(clients=clients if open_per_s is None else 0, per_s=open_per_s or 0.0, api=api)
    raise typer.Exit(
        chaos_command(
            Where(url, name, address),
            Console(),
            names=fault or [],
            model=model,
            arrivals=arrivals,
            length=length or (300 if open_per_s is None else 100),
            times=times,
            recovery_s=recovery_s,
        )
    )


@app.command()
def down(
    port: PortOfFleet = None,
    address: Annotated[str | None, typer.Option(help="An existing Ray cluster to remove the fleet from.")] = None,
    name: Annotated[str, typer.Option(help="Name of the fleet on that cluster.")] = "penstock",
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for a local fleet.")] = 120.0,
) -> None:
    """Ends the local fleet that `serve` started in another terminal, or removes one from a cluster."""
    from clusters.down import end_local_fleet, remove_from_cluster
    from deployments.run_file import find_fleet

    if address is not None:
        prepare_to_join(address)
        remove_from_cluster(address, name)
    else:
        end_local_fleet(find_fleet(port), Console(), timeout_s)
    Console().print("Ended.")


def main() -> None:
    """Entry point of `penstock`."""
    errors = Console(stderr=True)
    try:
        app()
    except SettingsFileError as error:
        for line in error.lines():
            errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except (ClusterError, FleetNotFound, NotPrivate) as error:
        errors.print(error.message, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:  # `penstock build | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _listening_on(fleet: FleetSettings, host: str | None, port: int | None) -> FleetSettings:
    changes = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    return fleet.model_copy(update={"http": fleet.http.model_copy(update=changes)})


def _url(url: str | None, port: int | None) -> str:
    from deployments.run_file import find_fleet

    return url if url is not None else find_fleet(port).url
