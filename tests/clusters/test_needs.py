from pathlib import Path

import pytest

from clusters.errors import ClusterError
from clusters.needs import check_adapters, check_memory, logical_cpus
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


def test_an_adapter_whose_folder_is_here_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 32}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    adapters = [{"name": "hub", "path": "org/name"}, {"name": "sql", "path": str(tmp_path)}]
    with pytest.raises(ClusterError, match=r"'sql' of the model 'demo' .*: its rank is 32, and max_lora_rank 16"):
        check_adapters(fleet(adapters=adapters))
    check_adapters(fleet(adapters=adapters, options={"max_lora_rank": 32}))
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ClusterError, match=r"it has no adapter_config\.json"):
        check_adapters(fleet(adapters=adapters))
    check_adapters(fleet(adapters=adapters, engine="simulated"))
