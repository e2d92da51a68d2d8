import pytest

from actors.instance.placement import Footprint, actor_options, missing, room

LAPTOP = [{"CPU": 8.0, "memory": 1e10}]
SERVERS = [{"CPU": 32.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 4.0, "big": 1.0}]


def test_the_bundle_holds_the_instance_and_its_replica() -> None:
    assert Footprint(2, 1.0, {"fast": 1.0}).bundle(replica_cpus=0.5) == {"CPU": 1.5, "GPU": 2.0, "fast": 1.0}
    assert Footprint(0, 0.0).bundle() == {}


def test_an_instance_over_several_nodes_has_a_bundle_on_each() -> None:
    spread = Footprint(4, 2.0, {"rack": 1.0}, nnodes=2)
    bundle = {"CPU": 2.0, "GPU": 4.0, "rack": 1.0}
    assert spread.group == {
        "placement_group_bundles": [bundle, bundle],
        "placement_group_strategy": "STRICT_SPREAD",
    }
    assert Footprint(1).group["placement_group_strategy"] == "STRICT_PACK"
    assert Footprint(0, 0.0).group == {}


@pytest.mark.parametrize(
    ("gpus", "nnodes", "expected"),
    [
        ([4, 4], 2, 1),
        ([8], 2, 0),
        ([8, 8], 2, 2),
        ([16, 4], 2, 1),  # The rest of the first node has no second one to go with.
        ([8, 4, 4], 2, 2),
        ([4, 4, 4], 2, 1),
        ([8, 8, 4], 3, 1),
    ],
)
def test_an_instance_has_no_two_bundles_on_one_node(gpus: list[int], nnodes: int, expected: int) -> None:
    assert room({"GPU": 4.0}, [{"GPU": float(each)} for each in gpus], nnodes) == expected


@pytest.mark.parametrize(
    ("bundle", "instances", "expected"),
    [
        ({"CPU": 1.0, "GPU": 2.0}, 3, None),
        ({"CPU": 1.0, "GPU": 2.0}, 4, "room for 3 of 4 instances"),
        ({"GPU": 0.6}, 6, None),
        ({"GPU": 0.6}, 7, "room for 6 of 7 instances"),
        ({"GPU": 8.0}, 1, "needs 8 GPUs on one node, and the largest node has 4 GPUs"),
        ({"tpu": 1.0}, 1, "needs 1 of the resource 'tpu' on one node, and the largest node has none"),
        ({"CPU": 8.0, "big": 1.0}, 1, "no node has all"),
        ({"CPU": 0.1}, 680, None),
        ({}, 1000, None),
    ],
)
def test_what_is_missing_is_said_in_words(bundle: dict[str, float], instances: int, expected: str | None) -> None:
    words = missing(bundle, instances, SERVERS)
    assert (words is None) if expected is None else (words is not None and expected in words)


def test_outside_of_a_placement_group_an_actor_is_placed_by_its_resources(ray_cluster: None) -> None:
    options = actor_options(Footprint(1, 0.5, {"fast": 1.0}), {"env_vars": {"A": "1"}})
    assert options == {
        "num_gpus": 1,
        "num_cpus": 0.5,
        "resources": {"fast": 1.0},
        "runtime_env": {"env_vars": {"A": "1"}},
    }
