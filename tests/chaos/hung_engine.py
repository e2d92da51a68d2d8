"""An engine of the demo fleet (real vLLM) hangs while new requests keep coming, under each routing policy.

`python -m tests.chaos.hung_engine [POLICY]... [--open RATE]` boots a fleet for each policy, has its engine's processes
stand still for good (`penstock chaos stop-engine`), and prints how long an answer paused and when the instance was
replaced. It ends with 1 if a client saw more of it than a pause, or one longer than `--pause`.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import get_args

import yaml
from rich.console import Console

from clusters.fleet_file import DEMO_FLEET
from deployments.model_settings import PolicyName
from tests.chaos.conftest import table
from tests.clusters.conftest import Terminal, free_port

BOOT_S = 900.0
CHAOS_S = 900.0


def hang(terminal: Terminal, policy: str, per_s: float, length: int, pause_s: float) -> bool:
    """Boots a fleet with this policy and lets an engine hang; whether clients saw no more than a short pause."""
    fleet = yaml.safe_load(DEMO_FLEET.read_text())
    for model in fleet["models"]:
        model["routing"] = {"policy": policy}
    file = terminal.fleet_file(yaml.safe_dump(fleet))
    port = str(free_port())
    penstock = terminal.start("serve", file, "--port", port)
    try:
        penstock.wait_for("Ctrl-C ends it.", BOOT_S)
        load = ("--open", f"{per_s:g}", "--length", str(length))
        done = terminal.run("chaos", "stop-engine", "--port", port, *load, timeout_s=CHAOS_S)
    finally:
        penstock.interrupt()
    console = Console(width=200, highlight=False, markup=False)
    console.print(f"{policy}, {per_s:g} requests a second", done.stdout + done.stderr, sep="\n")
    rows = table(done.stdout)
    for row in rows:
        whole = "never" if row.whole_s is None else f"after {row.whole_s:.1f} s"
        waits = f"longest pause {row.pause_s:.1f} s, longest wait for a first piece {row.first_s:.1f} s"
        console.print(f"{policy}: {waits}, replaced {whole}")
    return done.returncode == 0 and bool(rows) and all(row.pause_s <= pause_s for row in rows)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", metavar="POLICY", default=[*get_args(PolicyName)])
    parser.add_argument("--open", type=float, default=20.0, help="requests a second")
    parser.add_argument("--length", type=int, default=100, help="numbers of each answer")
    parser.add_argument("--pause", type=float, default=45.0, help="the longest pause that is good, in seconds")
    arguments = parser.parse_args()
    is_good = True
    for policy in arguments.policies:
        with tempfile.TemporaryDirectory() as home:
            is_good &= hang(Terminal(Path(home)), policy, arguments.open, arguments.length, arguments.pause)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
