"""`penstock status`: the instances of a running fleet, and how busy they are, as its `/metrics` tell.

HTTP and not Ray: it works from any machine that can ask the fleet, and costs no seconds to join a cluster.
"""

import time
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actors.directory.known_instance import InstanceState
from clusters.api_client import ApiClient
from clusters.boot_screen import instance_table, plain_table
from clusters.errors import ClusterError
from clusters.fleet_protocol import InstanceRow

_PERIOD_S = 1.0


@dataclass(slots=True)
class NodeRow:
    """One node, as far as a person wants to know.

    Attributes:
        address: On the cluster's network.
        cpus: CPUs that it has, reserved or not.
        gpus: GPUs likewise.
        routers: Where router replicas on it answer.
    """

    address: str = ""
    cpus: float = 0.0
    gpus: float = 0.0
    routers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Scrape:
    """What one look at `/metrics` tells.

    Attributes:
        at_s: Monotonic time of it.
        rows: The instances, by id.
        tokens: Tokens generated so far, by model.
        moved: Streams that broke and went on elsewhere, by model.
        in_flight: Requests under way in the whole fleet.
        held: Requests that wait for an instance to boot, by model.
        targets: How many instances a model is to have that follows its load, by model.
        reasons: Why it is to have so many, likewise.
        is_silent: Whether the autoscaling policy is not run.
        nodes: The nodes of the cluster, by Ray's id.
    """

    at_s: float
    rows: list[InstanceRow] = field(default_factory=list)
    tokens: dict[str, float] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    held: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    is_silent: bool = False
    nodes: dict[str, NodeRow] = field(default_factory=dict)

    def node(self, id: str) -> "NodeRow":
        """The node with this id, made where it was not told of yet."""
        return self.nodes.setdefault(id, NodeRow())

    def tokens_per_s(self, before: "Scrape") -> dict[str, float]:
        """Tokens per second since an earlier scrape, by model."""
        took_s = self.at_s - before.at_s
        return {
            model: (tokens - before.tokens.get(model, 0.0)) / took_s for model, tokens in self.tokens.items() if took_s
        }


def show_status(url: str, console: Console, *, watch: bool) -> None:
    """Shows the status of the fleet at that address, once, or until Ctrl-C.

    Raises:
        ClusterError: Nothing answers there, or no fleet.
    """
    client = ApiClient(url)
    before = scrape(client)
    time.sleep(_PERIOD_S)
    latest = scrape(client)
    if not watch:
        console.print(view(latest, before))
        return
    try:
        with Live(view(latest, before), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(_PERIOD_S)
                before, latest = latest, scrape(client)
                live.update(view(latest, before), refresh=True)
    except KeyboardInterrupt:
        return


def scrape(client: ApiClient) -> Scrape:
    """One look at the fleet.

    Raises:
        ClusterError: Nothing answers there, or no fleet.
    """
    text = client.get_text("/metrics")
    at_s = time.monotonic()
    try:
        return parse_metrics(text, at_s)
    except (ValueError, KeyError):
        raise ClusterError(f"What answers at {client.url} is no Penstock fleet.") from None


def parse_metrics(text: str, at_s: float) -> Scrape:
    """Reads the Prometheus text of a fleet.

    Raises:
        ValueError, KeyError: It is not that.
    """
    result = Scrape(at_s)
    info: dict[str, dict[str, str]] = {}
    loads: dict[str, dict[str, float]] = {}
    waits: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            match sample.name:
                case "penstock_instance_info":
                    info[sample.labels["instance"]] = sample.labels
                case "penstock_instance_waits_info":
                    waits[sample.labels["instance"]] = sample.labels["reason"]
                case "penstock_instance_running_requests":
                    loads.setdefault(sample.labels["instance"], {})["running"] = sample.value
                case "penstock_instance_queued_requests":
                    loads.setdefault(sample.labels["instance"], {})["queued"] = sample.value
                case "penstock_instance_kv_cache_use_ratio":
                    loads.setdefault(sample.labels["instance"], {})["kv_use"] = sample.value
                case "penstock_instance_prompt_tokens_total":
                    loads.setdefault(sample.labels["instance"], {})["prompts"] = sample.value
                case "penstock_instance_cached_prompt_tokens_total":
                    loads.setdefault(sample.labels["instance"], {})["cached"] = sample.value
                case "penstock_instance_sleeping":
                    loads.setdefault(sample.labels["instance"], {})["sleeps"] = sample.value
                case "penstock_generation_tokens_total":
                    model = sample.labels["model"]
                    result.tokens[model] = result.tokens.get(model, 0.0) + sample.value
                case "penstock_migrations_total" if sample.labels["outcome"] == "continued":
                    model = sample.labels["model"]
                    result.moved[model] = result.moved.get(model, 0) + int(sample.value)
                case "penstock_held_requests":
                    result.held[sample.labels["model"]] = int(sample.value)
                case "penstock_autoscaling_target_instances":
                    result.targets[sample.labels["model"]] = int(sample.value)
                case "penstock_autoscaling_reason_info":
                    result.reasons[sample.labels["model"]] = sample.labels["reason"]
                case "penstock_autoscaling_silent":
                    result.is_silent = bool(sample.value)
                case "penstock_node_info":
                    result.node(sample.labels["node"]).address = sample.labels["address"]
                case "penstock_node_capacity" if sample.labels["resource"] == "cpu":
                    result.node(sample.labels["node"]).cpus = sample.value
                case "penstock_node_capacity" if sample.labels["resource"] == "gpu":
                    result.node(sample.labels["node"]).gpus = sample.value
                case "penstock_router_info":
                    result.node(sample.labels["node"]).routers.append(sample.labels["address"])
                case "penstock_requests_in_flight":
                    result.in_flight += int(sample.value)
    for id, labels in sorted(info.items()):
        load = loads.get(id, {})
        result.rows.append(
            InstanceRow(
                id=id,
                model=labels["model"],
                state=InstanceState(labels["state"]),
                node=labels["node"],
                detail=waits.get(id, ""),
                running=int(load.get("running", 0)),
                queued=int(load.get("queued", 0)),
                kv_use=load.get("kv_use", 0.0),
                cached_share=load.get("cached", 0.0) / load["prompts"] if load.get("prompts") else None,
                sleeps=bool(load.get("sleeps", 0)),
            )
        )
    return result


def view(latest: Scrape, before: Scrape) -> Group:
    """What `penstock status` shows of a look at the fleet, and of one before it."""
    rates = latest.tokens_per_s(before)
    models = plain_table()
    models.add_column("model")
    models.add_column("ready", justify="right")
    models.add_column("tokens per second", justify="right")
    if latest.targets or latest.held:
        models.add_column("target", justify="right")
        models.add_column("held", justify="right")
    for model in sorted({row.model for row in latest.rows} | set(rates) | set(latest.held)):
        states = [row.state for row in latest.rows if row.model == model]
        ready = sum(state is InstanceState.READY for state in states)
        models.add_row(
            model,
            f"{ready} of {len(states)}" if states or not _is_asleep(model, latest) else "asleep",
            f"{rates.get(model, 0.0):.0f}",
            *((_target(model, latest), str(latest.held.get(model, ""))) if latest.targets or latest.held else ()),
        )
    flight = Text(f"{latest.in_flight} requests under way", style="dim")
    waits = [Text(f"{row.id} {row.detail}", style="yellow") for row in latest.rows if row.detail]
    if latest.is_silent:
        waits.append(Text("the autoscaling policy does not run: no model grows or shrinks", style="yellow"))
    # Of a fleet on one machine there is nothing to say.
    nodes: list[Text | Table] = [Text(), _node_table(latest)] if len(latest.nodes) > 1 else []
    return Group(instance_table(latest.rows, loads=True), *waits, Text(), models, *nodes, flight)


def _node_table(latest: Scrape) -> Table:
    table = plain_table()
    for heading in ("node", "address"):
        table.add_column(heading, no_wrap=True)
    for heading in ("CPUs", "GPUs", "instances"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("router answers at", overflow="fold")
    for id, node in sorted(latest.nodes.items(), key=lambda pair: pair[1].address):
        instances = sum(row.node == id for row in latest.rows)
        counts = (f"{node.cpus:g}", f"{node.gpus:g}", str(instances))
        table.add_row(Text(id[:12]), Text(node.address), *counts, Text(", ".join(sorted(set(node.routers)))))
    return table


def _is_asleep(model: str, latest: Scrape) -> bool:
    return latest.targets.get(model) == 0


def _target(model: str, latest: Scrape) -> str:
    if model not in latest.targets:
        return ""
    return f"{latest.targets[model]} ({latest.reasons.get(model, '')})"
