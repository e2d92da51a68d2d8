import json
from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.app import build
from deployments.application_config import application_config, policy_arguments
from deployments.fleet_settings import FleetSettings
from deployments.scaling.policy import goal_of
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


def test_an_instance_over_several_nodes_reserves_a_bundle_on_each() -> None:
    wide = {"name": "wide", "gpus": 4, "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "nnodes": 2}
    config = deployments({"models": [wide]})["engine-wide"]._replica_config
    assert config.placement_group_bundles == [{"CPU": 1, "GPU": 2}] * 2
    assert config.placement_group_strategy == "STRICT_SPREAD"


def test_an_instance_that_reserves_nothing_has_no_placement_group() -> None:
    assert deployments(FLEET)["engine-a-b-2"]._replica_config.placement_group_bundles is None


def test_serve_gives_an_instance_the_time_to_drain() -> None:
    config = deployments(FLEET)["engine-a-b"]._deployment_config
    assert config.graceful_shutdown_timeout_s > 100
    assert config.health_check_period_s == 3


def test_a_number_that_follows_the_load_has_bounds_and_no_delay_of_serves_own() -> None:
    models = [{**FLEET["models"][0], "replicas": {"min": 0, "max": 8}}, FLEET["models"][1]]  # type: ignore[index,dict-item]
    built = deployments({**FLEET, "models": models})
    config = built["engine-a-b"]._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (0, 8, None)
    assert (config.upscale_delay_s, config.downscale_delay_s, config.downscale_to_zero_delay_s) == (0, 0, 0)
    assert config.policy.policy_function == "deployments.scaling:keep"
    # Without it, what the routers report would not arrive.
    router = built["router"]._deployment_config.autoscaling_config
    assert (router.min_replicas, router.max_replicas) == (2, 2)
    assert built["engine-a-b-2"]._deployment_config.autoscaling_config is None


def test_a_model_with_a_spare_always_has_that_and_still_holds_what_comes_before_it_has_booted() -> None:
    models = [{"name": "m", "engine": "scripted", "replicas": {"min": 0, "max": 8, "spare": 1}}]
    for autoscaler, counts in (("serve", (1, 8)), ("routers", None)):
        fleet = FleetSettings.model_validate({"models": models, "autoscaler": autoscaler})
        config = deployments(fleet)["engine-m"]._deployment_config
        scaling = config.autoscaling_config
        assert (scaling and (scaling.min_replicas, scaling.max_replicas)) == counts
        assert counts is not None or config.num_replicas == 1
        assert goal_of(policy_arguments(fleet)["engines"]["engine-m"]).spare == 1
    (model,) = fleet.deployed
    assert (model.least_replicas, model.may_sleep, str(model.replicas)) == (1, True, "0 to 8, 1 spare")


def test_a_fleet_of_fixed_numbers_has_no_policy_at_all() -> None:
    assert all(one._deployment_config.autoscaling_config is None for one in deployments(FLEET).values())
    assert "autoscaling_policy" not in application_config(FleetSettings.model_validate(FLEET))


def test_a_policy_is_part_of_serves_config_and_plain_values_all_through() -> None:
    models = [{"name": "m", "engine": "scripted", "replicas": {"max": 2, "ttft_s": 1.5, "idle_s": 60}}]
    fleet = FleetSettings.model_validate({"models": models})
    config = application_config(fleet)
    ServeDeploySchema.model_validate({"applications": [config]})
    policy = config["autoscaling_policy"]
    assert policy["policy_function"] == "deployments.scaling:FleetPolicy"
    assert json.loads(json.dumps(policy)) == policy
    goal = goal_of(policy["policy_kwargs"]["engines"]["engine-m"])
    assert (goal.min, goal.max, goal.wait_s, goal.counts_prefill, goal.idle_s) == (1, 2, 1.5, True, 60)
    assert FleetSettings.model_validate(config["args"]) == fleet


@pytest.mark.parametrize(("replicas", "held_s"), [({"min": 0, "max": 2}, 900.0), (1, 0.0)])
def test_a_stream_waits_for_a_boot_and_a_request_where_its_model_may_sleep(replicas: Any, held_s: float) -> None:
    fleet = {"models": [{"name": "m", "engine": "scripted", "replicas": replicas, "start_timeout_s": 900}]}
    (model,) = FleetSettings.model_validate(fleet).deployed
    assert model.routing_in_effect.wait_s == held_s
    (migration,) = model.operators
    assert migration.options.wait_s == 900  # type: ignore[attr-defined]


def test_takes_settings_as_well_as_what_a_file_says() -> None:
    assert deployments(FLEET).keys() == deployments(FleetSettings.model_validate(FLEET)).keys()


def test_routers_on_nodes_of_their_own_are_kept_apart_from_their_like_and_from_no_others() -> None:
    routers = [
        deployments({**FLEET, "router": {"per_node": True, "resources": {"edge": 1}}})["router"].ray_actor_options  # type: ignore[attr-defined]
        for _ in range(2)
    ]
    names = [{name for name, amount in one["resources"].items() if amount == 1.0} - {"edge"} for one in routers]
    # Of an upgrade's replicas each stands beside the one that it replaces.
    assert [len(of_one) for of_one in names] == [1, 1] and names[0] != names[1]
    assert deployments(FLEET)["router"].ray_actor_options["resources"] == {}  # type: ignore[attr-defined]


def test_an_instance_may_ask_for_a_kind_of_accelerator() -> None:
    models = [{**FLEET["models"][0], "accelerator_type": "H100"}]  # type: ignore[index,dict-item]
    (engine,) = [one for name, one in deployments({**FLEET, "models": models}).items() if name != "router"]
    bundle = {"CPU": 4, "GPU": 2, "rack": 1, "accelerator_type:H100": 0.001}
    assert engine._replica_config.placement_group_bundles == [bundle]  # type: ignore[attr-defined]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        build({"models": []})
    with pytest.raises(InvalidRequest, match="scripted"):
        build({"models": [{"name": "m", "engine": "scriptd"}]})
