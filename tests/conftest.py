"""What all rooms share: one local Ray, with Serve on it."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Only what is imported later is rewritten, and more than one room asks with its helpers.
pytest.register_assert_rewrite("tests.contract.asking")


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
