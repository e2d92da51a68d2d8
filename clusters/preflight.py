"""`penstock check --address`: whether a live cluster is ready for a fleet, one line for each thing that it takes."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from typing import Any, Literal

from actors.instance.placement import Resources, room
from clusters.cluster_room import missing_resources, room_of
from clusters.errors import first_line
from clusters.needs import http_files
from clusters.node_probe import NodeReport, Questions, probe
from deployments.cluster_nodes import living_nodes
from deployments.fleet_settings import FleetSettings
from deployments.http.key_source import is_loopback
from deployments.instance_footprint import footprint_of
from deployments.model_settings import ModelSettings
from engines.registry import options_type, parse_options

NODE_S = 120.0
"""A node that has not answered after so long does not work: starting a process takes seconds."""
_HEAD = "node:__internal_head__"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one thing.

    Attributes:
        state: `ok`; `wrong`: the fleet will not run so; `note`: it will, but a person should know.
        about: What it is about.
        text: What was found.
    """

    state: Literal["ok", "wrong", "note"]
    about: str
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.state:5}  {self.about}: {self.text}"


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of the cluster.

    Attributes:
        address: Its address.
        resources: What it has.
        report: What was found on it; None: it did not answer.
        problem: Why not.
    """

    address: str
    resources: Resources
    report: NodeReport | None
    problem: str = ""


@dataclass(slots=True)
class _Needs:
    """What a node must have to hold one part of a fleet."""

    packages: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


def preflight(fleet: FleetSettings) -> list[Finding]:
    """Looks at every node of the cluster that this process has joined."""
    return findings(fleet, _ask_nodes(_questions(fleet)))


def findings(fleet: FleetSettings, nodes: Sequence[Node]) -> list[Finding]:
    """What the nodes' reports say about a fleet."""
    found = [*_silent(nodes), *_versions(nodes), *_resources(fleet, nodes)]
    parts = _parts(fleet, [node.resources for node in nodes])
    for about, missing, needed in (
        ("packages", lambda report: report["packages"], lambda needs: needs.packages),
        ("files", lambda report: report["files"], lambda needs: needs.files),
        ("environment", lambda report: report["variables"], lambda needs: needs.variables),
    ):
        found += _missing(about, parts, nodes, missing, needed)
    return [*found, *_database(fleet, nodes), *_token(nodes), *_head(nodes)]


def _ask_nodes(questions: Questions) -> list[Node]:
    import ray
    from ray import cloudpickle
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from clusters import node_probe

    # Nodes without Penstock must be able to say so.
    cloudpickle.register_pickle_by_value(node_probe)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(probe)
        living = living_nodes()
        asked = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(questions)
            for node in living
        ]
    finally:
        cloudpickle.unregister_pickle_by_value(node_probe)
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=NODE_S)
    answered = set(ready)
    nodes = []
    for node, answer in zip(living, asked, strict=True):
        report, problem = None, f"no program runs there within {NODE_S:.0f} s"
        if answer in answered:
            try:
                report = ray.get(answer)
            except RayError as error:
                problem = first_line(error)
        nodes.append(Node(node.address, node.resources, report, problem))
    return nodes


def _questions(fleet: FleetSettings) -> Questions:
    needs = [_router_needs(fleet), *(_model_needs(model) for model in fleet.deployed)]
    database = fleet.database
    return {
        "packages": list(dict.fromkeys(chain.from_iterable(one.packages for one in needs))),
        "files": list(dict.fromkeys(chain.from_iterable(one.files for one in needs))),
        "variables": list(dict.fromkeys(chain.from_iterable(one.variables for one in needs))),
        "database_url": "" if database is None or database.url is None else database.url,
        "database_variable": "" if database is None or database.url_env is None else database.url_env,
    }


def _router_needs(fleet: FleetSettings) -> _Needs:
    needs, http, database = _Needs(), fleet.http, fleet.database
    for model in fleet.models:
        for operator in model.operators:
            needs.packages |= dict(operator.options.packages)
        if isinstance(model, ModelSettings) and model.is_remote:
            _add_provider(needs, model)
    if database is not None:
        if database.file is None:
            needs.packages["asyncpg"] = "`pip install 'penstock[postgresql]'`"
        if database.url_env is not None:
            needs.variables[database.url_env] = "database.url_env"
    needs.files |= {path: key for key, path in http_files(http).items()}
    are_meant = http.api_keys_env is not None or not (http.open or is_loopback(http.host))
    if http.keys.file is None and not http.keys.pushed and are_meant:
        needs.variables[http.keys_env] = "API keys; or http.open: true, if everybody may ask"
    return needs


def _add_provider(needs: _Needs, model: ModelSettings) -> None:
    needs.packages |= dict(options_type(model.engine).packages)
    options: Any = parse_options(model.spec())
    if (variable := getattr(options, "api_key_env", None)) is not None:
        needs.variables[variable] = f"{model.name}: api_key_env"
    for key in ("api_key_file", "ca_file"):
        if (path := getattr(options, key, None)) is not None:
            needs.files[path] = f"{model.name}: {key}"


def _model_needs(model: ModelSettings) -> _Needs:
    # What a runtime environment installs is not there before.
    installs = any(key in model.runtime_env for key in ("pip", "uv", "conda", "container", "image_uri"))
    needs = _Needs(packages={} if installs else dict(options_type(model.engine).packages))
    for key, value in model.options.items():
        if isinstance(value, str) and value.startswith("/"):
            needs.files[value] = f"options.{key}"
    needs.files |= {one.path: f"adapter {one.name}" for one in model.adapters if one.path.startswith("/")}
    return needs


def _parts(fleet: FleetSettings, nodes: Sequence[Resources]) -> list[tuple[str, Resources, _Needs]]:
    """The parts of a fleet: its name, what one reserves, and what a node needs for it."""
    return [
        ("the routers", fleet.router.needs, _router_needs(fleet)),
        *((model.name, footprint_of(model, nodes).bundle(), _model_needs(model)) for model in fleet.deployed),
    ]


def _silent(nodes: Sequence[Node]) -> Iterator[Finding]:
    silent = [f"{node.address}: {node.problem}" for node in nodes if node.report is None]
    if silent:
        yield Finding("wrong", "nodes", "; ".join(silent))
    else:
        yield Finding("ok", "nodes", f"{len(nodes)}, and all answer")


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    ours = {"Penstock": version("penstock"), "Ray": version("ray"), "Python": _minor(platform.python_version())}
    wrong = []
    for node in nodes:
        if node.report is None:
            continue
        theirs = {
            "Penstock": node.report["penstock"],
            "Ray": node.report["ray"],
            "Python": _minor(node.report["python"]),
        }
        wrong += [
            f"{node.address} has {f'{name} {there}' if there else f'no {name}'}, and this machine {ours[name]}"
            for name, there in theirs.items()
            if there != ours[name]
        ]
    if wrong:
        yield Finding("wrong", "versions", "; ".join(wrong))
    else:
        yield Finding("ok", "versions", ", ".join(f"{name} {there}" for name, there in ours.items()))


def _resources(fleet: FleetSettings, nodes: Sequence[Node]) -> Iterator[Finding]:
    there = [node.resources for node in nodes]
    if lack := missing_resources(fleet, there):
        yield Finding("wrong", "resources", lack)
    else:
        yield Finding("ok", "resources", "; ".join(room_of(fleet, there)) or "for the routers")


def _missing(
    about: str,
    parts: Iterable[tuple[str, Resources, _Needs]],
    nodes: Sequence[Node],
    missing: Callable[[NodeReport], Sequence[str]],
    needed: Callable[[_Needs], Mapping[str, str]],
) -> Iterator[Finding]:
    """What nodes lack that could hold a part which needs it: Ray may choose any of them."""
    asked = 0
    wrong = []
    for part, bundle, needs in parts:
        for name, why in needed(needs).items():
            asked += 1
            lacking = [
                node.address
                for node in nodes
                if node.report is not None and name in missing(node.report) and room(bundle, [node.resources])
            ]
            if lacking:
                wrong.append(
                    f"{part} need{'' if part == 'the routers' else 's'} {name} ({why}), and "
                    f"{_listed(lacking)} has it not"
                )
    if wrong:
        yield Finding("wrong", about, "; ".join(wrong))
    else:
        yield Finding("ok", about, f"all {asked} are there" if asked else "none needed")


def _database(fleet: FleetSettings, nodes: Sequence[Node]) -> Iterator[Finding]:
    if fleet.database is None:
        return
    if fleet.database.file is not None:
        if fleet.router.most_replicas > 1:
            yield Finding("wrong", "database", "a file is for routers of one machine: use database.url or url_env")
        return
    wrong = [
        f"from {node.address}: {node.report['database']}"
        for node in nodes
        if node.report is not None and node.report["database"] and room(fleet.router.needs, [node.resources])
    ]
    if wrong:
        yield Finding("wrong", "database", "; ".join(wrong))
    else:
        yield Finding("ok", "database", "it lets us in from every node that may have a router")


def _token(nodes: Sequence[Node]) -> Iterator[Finding]:
    open_nodes = [node.address for node in nodes if node.report is not None and not node.report["asks_for_token"]]
    if open_nodes:
        text = f"whoever reaches {_listed(open_nodes)} may run code there: start Ray with RAY_AUTH_MODE=token"
        yield Finding("note", "token", text)
    else:
        yield Finding("ok", "token", "Ray asks for it on every node")


def _head(nodes: Sequence[Node]) -> Iterator[Finding]:
    for node in nodes:
        if _HEAD in node.resources and node.report is not None:
            if node.report["keeps_state"]:
                yield Finding("ok", "head", "what it knows outlives it")
            else:
                text = "it keeps what it knows in memory: without it the fleet ends after a minute (RAY_REDIS_ADDRESS)"
                yield Finding("note", "head", text)


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _listed(addresses: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(addresses))
