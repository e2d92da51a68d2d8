"""What all rooms share: one local Ray, with Serve on it."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Only what is imported later is rewritten, and more than one room asks with its helpers.
pytest.register_assert_rewrite("tests.contract.asking")


_SHARING = {
    "clusters": ("tests/clusters/",),
    "vllm": ("tests/contract/", "tests/engines/vllm/"),
    "ray": ("tests/actors/", "tests/deployments/"),
    "chaos": ("tests/chaos/",),
    "rest": ("",),
}
"""Where several processes run the tests, which of them share one, and with it what it has booted: the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("dist", "no") == "no" and not hasattr(config, "workerinput"):
        return
    groups: dict[str, list[pytest.Item]] = {name: [] for name in _SHARING}
    for item in items:
        name = next(name for name, paths in _SHARING.items() if item.nodeid.startswith(paths))
        item.add_marker(pytest.mark.xdist_group(name))
        groups[name].append(item)
    items[:] = [item for group in groups.values() for item in group]


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
