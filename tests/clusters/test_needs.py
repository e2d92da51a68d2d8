import pytest

from clusters.errors import ClusterError
from clusters.needs import check_memory, logical_cpus
from deployments.fleet_settings import FleetSettings


def fleet(**model: object) -> FleetSettings:
    return FleetSettings.model_validate({"models": [{"name": "demo", **model}]})


def test_a_local_ray_has_room_for_every_instance() -> None:
    assert logical_cpus(fleet(replicas=20, cpus=2), cores=2) > 40
    assert logical_cpus(fleet(), cores=64) == 64


def test_and_for_an_upgrade() -> None:
    assert logical_cpus(fleet(replicas=10, surge_percent=50), cores=2) >= 15


def test_too_little_memory_says_how_much_for_what() -> None:
    with pytest.raises(ClusterError, match=r"needs about .* GiB \(2 x demo .*\), and 1\.0 GiB are free"):
        check_memory(fleet(replicas=2), 2**30)


def test_enough_memory_passes() -> None:
    check_memory(fleet(engine="simulated", replicas=4), 4 * 2**30)
