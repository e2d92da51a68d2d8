import pytest
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from clusters.boot_failure import has_given_up, reason

SERVE = """A replica failed to start with exception. Retrying 2 more time(s). Error:
ray::ServeReplica:penstock:engine-broken.initialize_and_get_metadata() (pid=1, repr=<object at 0x7f>)
  File "replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "calls.py", line 25, in result
    value = await waiting
ray.exceptions.RayTaskError(EngineFailed): ray::EngineActor.boot() (pid=2, repr=<object at 0x7f>)
engines.errors.EngineFailed: no weights here

The above exception was the direct cause of the following exception:

  File "calls.py", line 29, in result
    raise translate(error, instance) from error
"""


def test_of_our_own_errors_it_is_the_message_alone() -> None:
    assert reason(SERVE + "engines.errors.EngineFailed: no weights on this disk\n") == "no weights on this disk"


def test_of_other_errors_it_names_the_kind() -> None:
    assert reason(SERVE + "torch.cuda.OutOfMemoryError: no room\n") == "OutOfMemoryError: no room"


def test_without_an_exception_it_is_the_last_line() -> None:
    assert (
        reason("Failed to update the deployments ['engine-a'].\n\n") == "Failed to update the deployments ['engine-a']."
    )
    assert reason("") == "Ray Serve gives no reason."


@pytest.mark.parametrize(
    "status, triggers, given_up",
    [
        ("DEPLOY_FAILED", ["REPLICA_STARTUP_FAILED"], True),
        ("DEPLOY_FAILED", ["HEALTH_CHECK_FAILED"], False),
        ("UNHEALTHY", ["HEALTH_CHECK_FAILED"], False),
        ("UNHEALTHY", ["HEALTH_CHECK_FAILED", "INTERNAL_ERROR"], True),
        ("DEPLOY_FAILED", [], True),
    ],
)
def test_a_missed_health_check_is_no_reason_to_give_up(status: str, triggers: list[str], given_up: bool) -> None:
    deployments = {
        trigger: DeploymentStatusOverview(DeploymentStatus(status), DeploymentStatusTrigger(trigger), {}, "")
        for trigger in triggers
    }
    booted = DeploymentStatusOverview(DeploymentStatus.HEALTHY, DeploymentStatusTrigger.HEALTH_CHECK_FAILED, {}, "")
    application = ApplicationStatusOverview(
        status=ApplicationStatus(status), message="", last_deployed_time_s=0.0, deployments={"b": booted} | deployments
    )
    assert has_given_up(application) is given_up
