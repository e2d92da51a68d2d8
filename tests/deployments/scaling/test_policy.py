import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import pytest

from deployments import scaling
from deployments.application_config import application_config
from deployments.fleet_settings import FleetSettings
from deployments.scaling.demand import Demand, rate_stats
from deployments.scaling.policy import NODES, STALE_S, FleetPolicy, keep
from tests.clock import Clock

FLEET = FleetSettings.model_validate(
    {
        "router": {"replicas": {"min": 1, "max": 4}},
        "models": [
            {"name": "m", "engine": "simulated", "replicas": {"min": 0, "max": 8, "idle_s": 60, "ttft_s": 3}},
            {"name": "fixed", "engine": "simulated", "replicas": 3},
        ],
    }
)
LEAVES_S = FLEET.http.notice_s + FLEET.http.drain_s
KWARGS = application_config(FLEET)["autoscaling_policy"]["policy_kwargs"] | {"fleet": None}


@dataclass
class Point:
    timestamp: float
    value: float


@dataclass
class Context:
    """What of Serve's own context the policy reads."""

    deployment_name: str
    target_num_replicas: int = 0
    running_replicas: list[str] = field(default_factory=list)
    raw_metrics: dict[str, dict[str, list[Point]]] = field(default_factory=dict)

    @property
    def current_num_replicas(self) -> int:
        return len(self.running_replicas)


class Serve:
    """Serve's controller, with one model and routers that report."""

    def __init__(self, arguments: dict[str, Any] = KWARGS) -> None:
        self.clock = Clock()
        self.policy = FleetPolicy(**arguments, clock=self.clock)
        self.router = Context("router", 1, ["r1"])
        self.engine = Context("engine-m")
        self._at_s = 0.0

    def report(self, demand: Demand, router: str = "r1", **more: float) -> None:
        self._at_s += 1
        for name, value in (demand.stats("engine-m") | more).items():
            self.router.raw_metrics.setdefault(name, {})[router] = [Point(self._at_s, value)]

    def tick(self, seconds: float = 1.0) -> dict[Any, int]:
        self.clock.now_s += seconds
        decisions, _ = self.policy({"r": self.router, "e": self.engine})
        self.engine.target_num_replicas = decisions.get("e", self.engine.target_num_replicas)
        self.engine.running_replicas = [str(one) for one in range(self.engine.target_num_replicas)]
        return decisions


@pytest.fixture
def serve() -> Serve:
    return Serve()


def test_a_held_request_wakes_its_model(serve: Serve) -> None:
    serve.report(Demand(held=1, arrived=1, waiting_tokens=10))
    assert serve.tick()["e"] == 1


def test_without_any_report_nothing_is_decided(serve: Serve) -> None:
    serve.engine.target_num_replicas = 5
    assert serve.tick() == {}
    serve.router.running_replicas = []
    assert serve.tick() == {}


def test_a_report_counts_once(serve: Serve) -> None:
    serve.report(Demand(held=1))
    assert serve.tick(0.1)
    assert serve.tick(0.1) == {}


def test_several_routers_add_up(serve: Serve) -> None:
    serve.router.running_replicas = ["r1", "r2"]
    for router in ("r1", "r2"):
        serve.report(Demand(held=100, waiting_tokens=500_000), router)
    both = serve.tick()["e"]
    alone = Serve()
    alone.report(Demand(held=100, waiting_tokens=500_000))
    assert both > alone.tick()["e"] >= 1


def test_nothing_shrinks_while_one_router_says_nothing(serve: Serve) -> None:
    serve.router.running_replicas = ["r1", "r2"]
    serve.engine.target_num_replicas = 3
    for _ in range(200):
        serve.report(Demand())
        assert serve.tick().get("e", 3) == 3


def test_nothing_shrinks_while_a_router_that_ends_may_have_streams(serve: Serve) -> None:
    serve.engine.target_num_replicas = 3
    serve.router.running_replicas = ["r1", "r2"]
    for _ in range(70):
        for router in ("r1", "r2"):
            serve.report(Demand(running=9, arrived=1), router)
        serve.tick()
    there = serve.engine.target_num_replicas
    assert there >= 1
    serve.router.running_replicas = ["r1"]
    left_s = serve.clock.now_s
    while serve.engine.target_num_replicas == there:
        serve.report(Demand(arrived=1), "r1")
        serve.tick()
        assert serve.clock.now_s < left_s + 300
    assert serve.clock.now_s > left_s + LEAVES_S


def test_nothing_shrinks_after_an_upgrade_before_the_routers_that_it_ends_are_gone() -> None:
    model = {"name": "m", "engine": "simulated", "replicas": {"min": 0, "max": 8, "idle_s": 1}}
    fleet = FleetSettings.model_validate({"models": [model]})
    serve = Serve(application_config(fleet)["autoscaling_policy"]["policy_kwargs"] | {"fleet": None})
    serve.engine.target_num_replicas = 2
    began_s = serve.clock.now_s
    while serve.engine.target_num_replicas:
        serve.report(Demand())
        serve.tick()
        assert serve.clock.now_s < began_s + 300
    assert serve.clock.now_s >= began_s + LEAVES_S


def test_nothing_shrinks_after_the_reports_have_stopped(serve: Serve) -> None:
    serve.engine.target_num_replicas = 3
    for _ in range(30):
        serve.report(Demand())
        serve.tick()
    for _ in range(200):
        assert serve.tick() == {}
    assert serve.clock.now_s > STALE_S


def test_an_idle_model_goes_to_sleep(serve: Serve) -> None:
    serve.engine.target_num_replicas = 1
    for _ in range(100):
        serve.report(Demand())
        serve.tick()
    assert serve.engine.target_num_replicas == 0


def test_a_policy_that_begins_anew_takes_up_what_was_measured(serve: Serve) -> None:
    serve.report(Demand(held=1, prefill_rate=50.0), **rate_stats("engine-m", 123.0))
    serve.tick()
    decision = serve.policy.decisions["engine-m"]
    assert (decision.rates.prompt_tokens_per_s, decision.is_measured) == (pytest.approx(123), True)


def test_a_dead_router_is_not_counted_any_more(serve: Serve) -> None:
    serve.router.running_replicas = ["r1", "r2"]
    serve.report(Demand(held=50, waiting_tokens=500_000), "r2")
    serve.report(Demand())
    serve.tick()
    serve.router.running_replicas = ["r1"]
    serve.report(Demand())
    serve.tick()
    assert serve.policy.decisions["engine-m"].backlog_s == 0


def test_routers_follow_the_nodes_within_their_bounds(serve: Serve) -> None:
    for nodes, expected in ((3, 3), (9, 4)):
        serve.report(Demand(), **{NODES: nodes})
        assert serve.tick()["r"] == expected


def test_routers_stay_where_nobody_counts_nodes(serve: Serve) -> None:
    serve.report(Demand())
    assert "r" not in serve.tick()


def test_whatever_serve_hands_in_the_policy_does_not_raise(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    assert serve.policy({"r": object()}) == ({}, {})  # type: ignore[dict-item]
    assert "all replicas stay as they are" in caplog.text
    serve.router.raw_metrics = {"engine-m|held": {"r1": [object()]}}  # type: ignore[list-item]
    assert serve.tick() == {}


def test_a_deployment_without_the_policy_keeps_what_it_has() -> None:
    assert keep(Context("engine-m", 7))[0] == 7


def test_fixed_numbers_are_not_its_business() -> None:
    assert list(KWARGS["engines"]) == ["engine-m"]
    assert "autoscaling_policy" not in application_config(
        FLEET.model_copy(update={"models": FLEET.models[1:], "router": FLEET.router.model_copy(update={"replicas": 2})})
    )


def test_serve_carries_it_to_where_penstock_is_not_installed() -> None:
    # As Serve does: by value, with what is in its package.
    cloudpickle.register_pickle_by_value(scaling)
    try:
        carried = cloudpickle.dumps(FleetPolicy)
    finally:
        cloudpickle.unregister_pickle_by_value(scaling)
    code = (
        "import builtins, pickle, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('deployments', 'engines', 'actors', 'clusters'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"policy = pickle.loads({carried!r})(**{KWARGS!r})\n"
        "print(policy({}))"
    )
    assert _python(code) == "({}, {})"


def _python(code: str) -> str:
    return subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=True).stdout.strip()
