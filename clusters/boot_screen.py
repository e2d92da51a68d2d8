"""What a person sees while a fleet boots: a live table on a terminal, one line per change anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from actors.directory.known_instance import InstanceState
from clusters.fleet_protocol import InstanceRow
from deployments.fleet_settings import FleetSettings

STATE_STYLES = {
    InstanceState.STARTING: "yellow",
    InstanceState.READY: "green",
    InstanceState.DRAINING: "blue",
    InstanceState.GONE: "red",
}


class BootScreen:
    """Shows phases and instances; a context manager, which gives the terminal back at its end.

    Args:
        console: Where to.
        fleet: What boots.
    """

    def __init__(self, console: Console, fleet: FleetSettings) -> None:
        self._console = console
        self._expected = sum(model.least_replicas for model in fleet.deployed)
        self._began_s = time.time()
        self._phase = ""
        self._rows: list[InstanceRow] = []
        self._spinner = Spinner("dots")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the live table; from then on there is a line per change. Idempotent."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, text: str) -> None:
        """Says what is being done now."""
        self._phase = text
        self._line(text)

    def instances(self, rows: list[InstanceRow]) -> None:
        """Takes the latest instances, and says what has changed."""
        before = {row.id: row for row in self._rows}
        now = {row.id for row in rows}
        for row in rows:
            known = before.get(row.id)
            # While it boots its detail counts the seconds.
            if (
                known is None
                or known.state is not row.state
                or (known.detail != row.detail and row.state is not InstanceState.STARTING)
            ):
                self._line(f"{row.id}  {row.state.value}{f'  {row.detail}' if row.detail else ''}")
        for row in self._rows:
            if row.id not in now:
                self._line(f"{row.id}  gone")
        self._rows = rows

    def _line(self, text: str) -> None:
        if self._live is None:
            clock = f"{time.time() - self._began_s:6.1f} s"
            self._console.print(f"{clock}  {text}", markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        ready = sum(row.state is InstanceState.READY for row in self._rows)
        head = Text.assemble(
            self._phase, (f"  {ready} of {self._expected} ready, {time.time() - self._began_s:.0f} s", "dim")
        )
        self._spinner.update(text=head)
        return Group(self._spinner, instance_table(self._rows)) if self._rows else self._spinner


def plain_table() -> Table:
    """An empty table as all commands show them: no lines, dim headings."""
    return Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))


def instance_table(rows: list[InstanceRow], *, loads: bool = False) -> Table:
    """A table of instances.

    Args:
        rows: The instances.
        loads: Whether to show where they run and how busy they are, or how they come along.
    """
    table = plain_table()
    for heading in ("instance", "model", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("running", "queued", "KV cache", "cached") if loads else ("seconds",):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("node" if loads else "", no_wrap=loads, overflow="fold")
    for row in rows:
        rest: list[str | Text]
        if loads:
            cached = "" if row.cached_share is None else f"{row.cached_share:.0%}"
            rest = [str(row.running), str(row.queued), f"{row.kv_use:.0%}", cached, Text(row.node[:12])]
        else:
            rest = [f"{max(0.0, time.time() - row.since_s):.0f}" if row.since_s else "", Text(row.detail)]
        state = f"{row.state.value}, sleeps" if row.sleeps else row.state.value
        table.add_row(Text(row.id), Text(row.model), Text(state, STATE_STYLES[row.state]), *rest)
    return table
