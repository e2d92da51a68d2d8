"""What a caller of the handle is told of Serve's own errors."""

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.handle import _until_stopped
from engines.context import Context
from engines.errors import NotReady


async def test_a_fleet_that_is_down_is_not_ready() -> None:
    async def answer() -> None:
        raise DeploymentUnavailableError(DeploymentID("router", "penstock"))

    with pytest.raises(NotReady, match="no router"):
        await _until_stopped(answer(), Context())
