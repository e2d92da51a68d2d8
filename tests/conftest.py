"""What all rooms share: one local Ray, with Serve on it."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Only what is imported later is rewritten, and more than one room asks with its helpers.
pytest.register_assert_rewrite("tests.contract.asking")


_SHARING = {
    "ray": ("tests/actors/", "tests/deployments/"),
    "chaos": ("tests/chaos/",),
    "clusters": ("tests/clusters/",),
    "vllm": ("tests/contract/", "tests/engines/vllm/"),
}
"""Where several processes run the tests, which are for one of them: they share what it boots. Others go by module."""


class _BySharing(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return next((name for name, paths in _SHARING.items() if nodeid.startswith(paths)), module)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    # By markers (`--dist loadgroup`) it would be said at each test, and xdist's do nothing under pytest 9.2.
    config.option.loadscopereorder = False
    return _BySharing(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session, of its own: a user's running cluster is never touched."""
    import ray

    from tests.own_ray import start_ray

    start_ray(num_cpus=16, object_store_memory=150 * 2**20)  # CPUs are a count to place by, not cores.
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def serve_cluster(ray_cluster: None) -> Iterator[None]:
    """Ray Serve without its proxies: the fleet listens for itself."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
