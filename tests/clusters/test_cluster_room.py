import pytest

from clusters.cluster_room import missing_resources, room_of, share_gpus
from deployments.fleet_settings import FleetSettings, RouterSettings


def fleet(**model: object) -> FleetSettings:
    return FleetSettings.model_validate({"models": [{"name": "demo", **model}]})


def test_instances_that_find_no_node_are_missing_by_model() -> None:
    said = missing_resources(fleet(replicas=2, tensor_parallel_size=4), [{"CPU": 64, "GPU": 4}])
    assert said.startswith("demo: the cluster has room for 1 of 2 instances")


def test_an_instance_needs_a_gpu_for_each_rank_of_each_stage() -> None:
    staged = fleet(tensor_parallel_size=2, pipeline_parallel_size=2)
    assert missing_resources(staged, [{"CPU": 64, "GPU": 4}]) == ""
    assert "needs 4 GPUs on one node" in missing_resources(staged, [{"CPU": 64, "GPU": 3}])


def test_an_instance_over_several_nodes_needs_a_part_of_its_gpus_on_each() -> None:
    wide = fleet(replicas=2, tensor_parallel_size=4, pipeline_parallel_size=2, nnodes=2)
    node = {"CPU": 64, "GPU": 4}
    assert missing_resources(wide, [node] * 4) == ""
    assert missing_resources(wide, [{"CPU": 64, "GPU": 8}] * 2) == ""
    said = missing_resources(wide, [node] * 3)
    assert said == "demo: the cluster has room for 1 of 2 instances (1 CPU, 4 GPUs on each of 2 nodes)"
    said = missing_resources(wide, [{"CPU": 64, "GPU": 16}])
    assert said == "demo: one instance takes 2 nodes, and only 1 has what it needs on each: 1 CPU, 4 GPUs"
    assert room_of(wide, [node] * 3) == ["demo: room for 1 of 2"]


def test_a_model_that_follows_its_load_needs_room_for_its_least_and_for_one_at_least() -> None:
    asleep = fleet(replicas={"min": 0, "max": 8}, gpus=2)
    assert missing_resources(asleep, [{"CPU": 64, "GPU": 4}]) == ""
    assert "the largest node has 1 GPU" in missing_resources(asleep, [{"CPU": 64, "GPU": 1}])
    said = missing_resources(fleet(replicas={"min": 3, "max": 8}, gpus=2), [{"CPU": 64, "GPU": 4}])
    assert said.startswith("demo: the cluster has room for 2 of 3 instances")


def test_router_replicas_need_their_custom_resources() -> None:
    pinned = FleetSettings.model_validate(
        {"models": [{"name": "demo", "engine": "simulated"}], "router": {"replicas": 2, "resources": {"edge": 1}}}
    )
    assert missing_resources(pinned, [{"CPU": 64, "edge": 2}]) == ""
    assert "2 of the resource 'edge'" in missing_resources(pinned, [{"CPU": 64, "edge": 1}])


def test_what_a_cluster_can_hold_is_said_for_each_model() -> None:
    nodes = [{"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}]
    assert room_of(fleet(replicas={"min": 0, "max": 8}, gpus=4), nodes) == ["demo: room for 4 of 0 to 8"]
    assert room_of(fleet(replicas=2, gpus=4), nodes) == ["demo: room for all of 2"]


def test_a_vllm_fleet_needs_no_gpu_where_there_is_none() -> None:
    assert missing_resources(fleet(replicas=2, tensor_parallel_size=4), [{"CPU": 64}]) == ""


def test_gpus_that_are_asked_for_are_missing_where_there_are_none() -> None:
    assert "1 GPU on one node" in missing_resources(fleet(gpus=1), [{"CPU": 64}])


def test_models_that_fit_one_by_one_may_be_too_much_together() -> None:
    both = FleetSettings.model_validate({"models": [{"name": "a", "gpus": 3}, {"name": "b", "gpus": 2}]})
    assert missing_resources(both, [{"CPU": 64, "GPU": 4}]) == "the fleet needs 5 GPUs, and the cluster has 4 GPUs"


def test_routers_on_nodes_of_their_own_need_as_many_nodes() -> None:
    settings = fleet(engine="simulated").model_copy(update={"router": RouterSettings(replicas=3, per_node=True)})
    nodes = [{"CPU": 8.0}, {"CPU": 8.0}, {"CPU": 0.0}]
    said = "router: per_node puts 3 replicas on as many nodes, and only 2 nodes have room for one (0.5 CPUs)"
    assert missing_resources(settings, nodes) == said
    assert missing_resources(settings, [*nodes, {"CPU": 1.0}]) == ""
    assert room_of(settings, nodes)[0] == "router: room for one on each of 2 nodes"


def test_routers_live_where_what_they_ask_for_is() -> None:
    settings = fleet(engine="simulated").model_copy(update={"router": RouterSettings(resources={"edge": 1})})
    said = "router: no node has what one replica needs (0.5 CPUs, 1 of the resource 'edge')"
    assert missing_resources(settings, [{"CPU": 8.0}]) == said
    assert missing_resources(settings, [{"CPU": 8.0, "edge": 1.0}]) == ""


def test_a_kind_of_accelerator_that_no_node_has_is_said_with_those_there_are() -> None:
    settings = fleet(gpus=1, accelerator_type="H200")
    nodes = [{"CPU": 8.0, "GPU": 1.0, "accelerator_type:H100": 1.0}]
    said = "demo: one instance needs a node with an accelerator of type H200, and the nodes have H100"
    assert missing_resources(settings, nodes) == said
    assert missing_resources(fleet(gpus=1, accelerator_type="H100"), nodes) == ""


@pytest.mark.parametrize(
    ("replicas", "gpus", "share"), [(2, 1, 0.5), (3, 1, 0.3333), (3, 2, 0.5), (2, 2, None), (2, 0, None)]
)
def test_instances_share_what_gpus_there_are(replicas: int, gpus: int, share: float | None) -> None:
    shared = share_gpus(fleet(replicas=replicas), gpus)
    assert shared.models[0].gpus == share
    assert missing_resources(shared, [{"CPU": 64, "GPU": gpus}]) == ""


def test_who_shares_a_gpu_shares_its_memory_unless_it_says_otherwise() -> None:
    assert share_gpus(fleet(replicas=2), 1).models[0].options == {"gpu_memory_utilization": 0.45}
    own = {"gpu_memory_utilization": 0.2}
    assert share_gpus(fleet(replicas=2, options=own), 1).models[0].options == own


@pytest.mark.parametrize(
    "model", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}, {"gpus": 1}, {"engine": "simulated"}]
)
def test_who_has_said_what_it_needs_gets_that_or_nothing(model: dict[str, object]) -> None:
    settings = fleet(replicas=4, **model)
    assert share_gpus(settings, 1) == settings
