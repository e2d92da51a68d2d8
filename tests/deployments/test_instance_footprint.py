import pytest

from actors.instance.placement import Footprint
from deployments.instance_footprint import footprint_of
from deployments.instance_gpus import needs_nodes
from deployments.model_settings import ModelSettings

LAPTOP = [{"CPU": 8.0, "memory": 1e10}]
SERVERS = [{"CPU": 32.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 4.0, "big": 1.0}]


@pytest.mark.parametrize(
    ("gpus", "ranks", "engine", "nodes", "expected"),
    [
        (None, 1, "vllm", LAPTOP, 0),
        (None, 2, "vllm", SERVERS, 2),
        (None, 2, "simulated", SERVERS, 0),
        (0, 2, "vllm", SERVERS, 0),
        (4, 1, "vllm", LAPTOP, 4),
    ],
)
def test_gpus_follow_the_cluster_unless_they_are_given(
    gpus: float | None, ranks: int, engine: str, nodes: list[dict[str, float]], expected: float
) -> None:
    model = ModelSettings(name="m", engine=engine, gpus=gpus, tensor_parallel_size=ranks)
    assert footprint_of(model, nodes).gpus == expected
    # Whoever need not ask for the nodes gets the same.
    assert needs_nodes(model) or footprint_of(model, ()).gpus == expected


def test_an_instance_over_several_nodes_has_a_part_of_its_gpus_on_each() -> None:
    model = ModelSettings(name="m", engine="vllm", tensor_parallel_size=8, nnodes=2, cpus=2.0, resources={"rack": 1.0})
    assert footprint_of(model, SERVERS) == Footprint(4.0, 2.0, {"rack": 1.0}, 2)
