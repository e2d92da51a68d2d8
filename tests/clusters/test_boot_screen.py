import io

from rich.console import Console

from actors.directory.known_instance import InstanceState
from clusters.boot_screen import BootScreen
from clusters.fleet_protocol import InstanceRow
from deployments.fleet_settings import FleetSettings

FLEET = FleetSettings.model_validate({"models": [{"name": "demo", "replicas": 2}]})


def row(id: str, state: InstanceState, detail: str = "") -> InstanceRow:
    return InstanceRow(id=id, model="demo", state=state, detail=detail)


def screen(*, is_terminal: bool) -> tuple[BootScreen, io.StringIO]:
    output = io.StringIO()
    return BootScreen(Console(file=output, force_terminal=is_terminal, width=100), FLEET), output


def test_without_a_terminal_there_is_one_line_per_change() -> None:
    boot, output = screen(is_terminal=False)
    with boot:
        boot.phase("starting Ray")
        boot.instances([row("a", InstanceState.STARTING, "boots, 1 s so far")])
        boot.instances([row("a", InstanceState.STARTING, "boots, 2 s so far")])
        boot.instances([row("a", InstanceState.READY)])
        boot.instances([row("a", InstanceState.GONE, "out of memory")])
        boot.instances([])
    said = [line.split(" s  ", 1)[1] for line in output.getvalue().splitlines()]
    assert said == [
        "starting Ray",
        "a  starting  boots, 1 s so far",
        "a  ready",
        "a  gone  out of memory",
        "a  gone",
    ]


def test_on_a_terminal_the_table_names_every_instance_and_how_many_are_ready() -> None:
    boot, output = screen(is_terminal=True)
    with boot:
        boot.phase("booting")
        boot.instances([row("one", InstanceState.STARTING, "loads"), row("two", InstanceState.READY)])
    shown = output.getvalue()
    assert "1 of 2 ready" in shown
    assert "one" in shown
    assert "loads" in shown
