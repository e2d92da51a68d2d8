"""A fleet of simulated engines, started as a person starts it; `penstock chaos` harms it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.clusters.conftest import Terminal, free_port
from tests.clusters.conftest import shared_terminal as shared_terminal

# Slow engines: on a busy machine the clients of fast ones read what has long been said, and a fault harms nobody.
_FLEET = """
name: chaos
router: {replicas: 2, cpus: 0.1}
models:
  - {name: moves, engine: simulated, options: {speed: 0.3}, replicas: 3, cpus: 0.1, health: {period_s: 1}}
  - {name: stays, engine: simulated, options: {speed: 0.3}, replicas: 2, cpus: 0.1, health: {period_s: 1}, pipeline: []}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    fault: str
    times: int
    open: int
    moved: int
    served: int
    broken: int
    cut: int
    taken_up: int
    lost: int
    repeated: int
    pause_s: float
    """The longest pause of any answer."""
    first_s: float
    """The longest wait for the first piece of one."""
    whole_s: float | None
    """Until the fleet had its full capacity again; None: it never had."""


@dataclass(frozen=True, slots=True)
class ChaosFleet:
    """A running fleet, and the command that harms it."""

    terminal: Terminal
    port: int

    def strike(self, *arguments: str) -> tuple[int, list[Row], str]:
        """Exit code, table and whole output of `penstock chaos`."""
        done = self.terminal.run("chaos", "--port", str(self.port), *arguments, timeout_s=600.0)
        return done.returncode, table(done.stdout), done.stdout + done.stderr


def table(output: str) -> list[Row]:
    """The rows of the table that a chaos run printed."""
    rows = []
    for line in output.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) > 11 and all(cell.isdecimal() for cell in cells[1:11]):
            counts = map(int, cells[1:11])
            times, open_, moved, served, _, broken, cut, taken_up, lost, repeated = counts
            # What follows them may be empty, but for the last three.
            pause, first, whole = cells[-3:]
            pause_s, first_s = (float(cell.removesuffix(" ms")) / 1e3 for cell in (pause, first))
            whole_s = None if whole == "never" else float(whole.removesuffix(" s"))
            row = Row(
                cells[0], times, open_, moved, served, broken, cut, taken_up, lost, repeated, pause_s, first_s, whole_s
            )
            rows.append(row)
    return rows


@pytest.fixture(scope="module")
def fleet(shared_terminal: Terminal) -> Iterator[ChaosFleet]:
    port = free_port()
    (shared_terminal.home / "chaos.yaml").write_text(_FLEET)
    penstock = shared_terminal.start("serve", "chaos.yaml", "--port", str(port))
    penstock.wait_for("Ctrl-C ends it.")
    yield ChaosFleet(shared_terminal, port)
    assert penstock.interrupt() == 0, penstock.output
