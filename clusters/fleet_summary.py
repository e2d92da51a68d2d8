"""What a fleet file would start, as a table."""

from rich.table import Table

from deployments.fleet_settings import FleetSettings
from deployments.instance_gpus import gpus_of, needs_nodes
from deployments.model_settings import FallbackSettings, ModelSettings


def summary(fleet: FleetSettings) -> Table:
    """One row per model: its names and those of its adapters, engine, instances, and what they reserve."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("model", "engine", "runs"):
        table.add_column(heading, overflow="fold")
    for heading in ("instances", "GPUs each", "CPUs each"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in fleet.models:
        names = ", ".join(model.names)
        if not isinstance(model, ModelSettings):
            kind = "fallback" if isinstance(model, FallbackSettings) else "pool"
            table.add_row(names, kind, ", ".join(model.members), "", "", "")
            continue
        if model.is_remote:
            table.add_row(names, model.engine, str(model.options.get("model", "")), "", "", "")
            continue
        gpus = f"{gpus_of(model, has_gpus=True):g}" + (", or the CPU" if needs_nodes(model) else "")
        cpus = f"{model.cpus:g}"
        if model.nnodes > 1:
            gpus, cpus = f"{gpus}, on {model.nnodes} nodes", f"{model.cpus * model.nnodes:g}"
        table.add_row(names, model.engine, str(model.options.get("model", "")), str(model.replicas), gpus, cpus)
    return table
