import pytest
from pydantic import ValidationError

from deployments.app import build
from deployments.fleet_settings import FleetSettings
from engines.errors import InvalidRequest

FLEET = {
    "name": "f",
    "router": {"replicas": 2, "cpus": 0.25},
    "models": [
        {
            "name": "a/b",
            "engine": "scripted",
            "replicas": 3,
            "gpus": 2,
            "cpus": 4,
            "resources": {"rack": 1},
            "health": {"period_s": 3},
            "drain_timeout_s": 100,
        },
        {"name": "a-b", "engine": "scripted", "cpus": 0},
    ],
}


def deployments(args: object) -> dict[str, object]:
    application = build(args)  # type: ignore[arg-type]
    engines = application._bound_deployment.init_args[1:]
    return {app._bound_deployment.name: app._bound_deployment for app in (application, *engines)}


def test_one_deployment_per_model_and_the_router() -> None:
    built = deployments(FLEET)
    assert {name: one.num_replicas for name, one in built.items()} == {"router": 2, "engine-a-b": 3, "engine-a-b-2": 1}
    assert built["router"].ray_actor_options["num_cpus"] == 0.25


def test_an_instance_reserves_its_footprint_as_one_bundle() -> None:
    engine = deployments(FLEET)["engine-a-b"]
    config = engine._replica_config
    assert config.placement_group_bundles == [{"CPU": 4, "GPU": 2, "rack": 1}]
    assert config.placement_group_strategy == "STRICT_PACK"
    assert config.ray_actor_options["num_cpus"] == 0
    assert "num_gpus" not in config.ray_actor_options


def test_an_instance_that_reserves_nothing_has_no_placement_group() -> None:
    assert deployments(FLEET)["engine-a-b-2"]._replica_config.placement_group_bundles is None


def test_serve_gives_an_instance_the_time_to_drain() -> None:
    config = deployments(FLEET)["engine-a-b"]._deployment_config
    assert config.graceful_shutdown_timeout_s > 100
    assert config.health_check_period_s == 3


def test_takes_settings_as_well_as_what_a_file_says() -> None:
    assert deployments(FLEET).keys() == deployments(FleetSettings.model_validate(FLEET)).keys()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        build({"models": []})
    with pytest.raises(InvalidRequest, match="scripted"):
        build({"models": [{"name": "m", "engine": "scriptd"}]})
