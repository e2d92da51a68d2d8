import asyncio
import json
from collections.abc import Mapping

import pytest

from deployments import router_scaling
from deployments.app import build
from deployments.application_config import application_config, policy_arguments
from deployments.fleet_settings import FleetSettings
from deployments.router_scaling import REPORTS, Replicas, RouterScaler
from deployments.scaling.bulletin import KEY
from deployments.scaling.demand import Demand
from tests.clock import Clock
from tests.deployments.waiting import until

FLEET = FleetSettings.model_validate(
    {
        "autoscaler": "routers",
        "models": [{"name": "m", "engine": "scripted", "replicas": {"min": 0, "max": 4, "idle_s": 20}}],
    }
)


class Board(dict[str, bytes]):
    async def post(self, key: str, value: bytes, ttl_s: float | None) -> None:
        self[key] = value

    async def read(self, prefix: str) -> dict[str, bytes]:
        return {key: value for key, value in self.items() if key.startswith(prefix)}


class Numbers:
    def __init__(self, routers: int) -> None:
        self.routers = routers
        self.engines = 1
        self.calls: list[tuple[str, int]] = []

    async def read(self) -> Mapping[str, Replicas]:
        return {"router": Replicas(self.routers, self.routers), "engine-m": Replicas(self.engines, self.engines)}

    async def set(self, deployment: str, count: int) -> None:
        self.calls.append((deployment, count))
        self.engines = count


class World:
    """Router replicas that share a board."""

    def __init__(self, *names: str, fleet: FleetSettings = FLEET) -> None:
        self.policy = policy_arguments(fleet)
        self.clock, self.board, self.numbers = Clock(), Board(), Numbers(len(names))
        self.demand = dict.fromkeys(names, Demand())
        self.scalers = {name: self._scaler(name) for name in names}

    def _scaler(self, name: str) -> RouterScaler:
        async def report() -> dict[str, float]:
            return self.demand[name].stats("engine-m")

        return RouterScaler(name, self.policy, report, self.board, self.numbers, self.clock)

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.now_s += 1
            for scaler in [*self.scalers.values()]:
                await scaler.step()

    def die(self, name: str) -> None:
        del self.scalers[name]
        del self.board[REPORTS + name]


async def test_one_decides_for_all_and_says_what() -> None:
    world = World("b", "a")
    world.demand["b"] = Demand(held=50, arrived=50, waiting_tokens=1e6)
    await world.seconds(3)
    assert [name for name, scaler in world.scalers.items() if scaler.decides] == ["a"]
    assert world.numbers.engines > 1
    assert json.loads(world.board[KEY])["engine-m"]["target"] == world.numbers.engines


async def test_an_idle_model_goes_to_sleep_and_wakes_up() -> None:
    world = World("a")
    await world.seconds(40)
    assert world.numbers.engines == 0
    world.demand["a"] = Demand(held=1, arrived=1, waiting_tokens=10)
    await world.seconds(2)
    assert world.numbers.engines == 1


async def test_an_idle_model_keeps_its_spare() -> None:
    replicas = {"min": 0, "max": 4, "idle_s": 20, "spare": 1}
    models = [{"name": "m", "engine": "scripted", "replicas": replicas}]
    world = World("a", fleet=FleetSettings.model_validate({"autoscaler": "routers", "models": models}))
    await world.seconds(40)
    assert (world.numbers.engines, world.numbers.calls) == (1, [])
    world.demand["a"] = Demand(running=1, arrived=1)
    await world.seconds(2)
    assert world.numbers.engines == 2


async def test_what_is_so_already_is_not_set_again() -> None:
    world = World("a")
    world.demand["a"] = Demand(running=1)
    await world.seconds(60)
    assert world.numbers.calls == []


async def test_another_goes_on_and_ends_nothing_before_it_has_watched() -> None:
    world = World("a", "b")
    world.numbers.engines = 3
    await world.seconds(15)
    world.die("a")
    world.numbers.routers = 1
    await world.seconds(15)
    assert world.scalers["b"].decides
    assert world.numbers.engines == 3
    await world.seconds(30)  # By then what the other one had has ended, too.
    assert world.numbers.engines == 0


async def test_nothing_ends_while_a_router_that_runs_has_not_reported() -> None:
    world = World("a")
    world.numbers.routers = 2
    await world.seconds(60)
    assert world.numbers.calls == []


async def test_a_controller_that_forgot_some_for_a_moment_is_no_reason_to_end_any() -> None:
    world = World("a")
    world.demand["a"] = Demand(held=100, arrived=100, waiting_tokens=1e6)
    await world.seconds(2)
    was = world.numbers.engines
    assert was > 1
    world.demand["a"] = Demand(running=1, arrived=100, finished=99)
    world.numbers.engines = 0
    world.numbers.calls.clear()
    await world.seconds(5)
    assert {count for _, count in world.numbers.calls} <= {was}


async def test_a_number_that_an_upgrade_reset_is_set_again() -> None:
    world = World("a")
    world.demand["a"] = Demand(held=100, arrived=100, waiting_tokens=1e6)
    await world.seconds(2)
    was = world.numbers.engines
    world.numbers.engines = 1
    await world.seconds(15)
    assert world.numbers.engines == was


async def test_a_controller_that_is_away_holds_up_no_later_step(monkeypatch: pytest.MonkeyPatch) -> None:
    world, steps = World("a"), 0
    (scaler,) = world.scalers.values()

    class Away(Exception):
        """As Serve's own errors are: of no kind of Ray's."""

    async def step() -> None:
        nonlocal steps
        steps += 1
        raise Away

    monkeypatch.setattr(router_scaling, "EVERY_S", 0.0)
    monkeypatch.setattr(scaler, "step", step)
    running = asyncio.create_task(scaler.run())
    await until(lambda: steps > 2)
    assert not running.done()
    running.cancel()


def test_serve_is_told_of_an_external_scaler_and_of_no_policy() -> None:
    config = application_config(FLEET)
    assert config["external_scaler_enabled"] is True
    assert "autoscaling_policy" not in config
    application = build(FLEET)
    (engine,) = application._bound_deployment.init_args[1:]
    for deployment in (application._bound_deployment, engine._bound_deployment):
        assert deployment._deployment_config.autoscaling_config is None
        assert deployment.num_replicas == 1


def test_the_word_for_who_scales_is_checked() -> None:
    with pytest.raises(ValueError, match="autoscaler"):
        FleetSettings.model_validate({"autoscaler": "router", "models": [{"name": "m"}]})
