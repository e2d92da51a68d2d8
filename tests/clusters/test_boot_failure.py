from clusters.boot_failure import reason

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
