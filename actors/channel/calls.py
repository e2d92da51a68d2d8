"""Awaiting an ordinary actor call as if it were a local one: same errors, same cancellation."""

from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError

from engines.errors import Cancelled, EngineFailed, InstanceLost, PenstockError


async def result(call: Any, instance: str) -> Any:
    """What an actor call returned; cancelling the waiter cancels the call.

    Args:
        call: The ObjectRef of the call.
        instance: The instance that was called, for the errors.

    Raises:
        PenstockError: What the call raised; InstanceLost when the actor, or the way to it, died.
    """
    waiting: Awaitable[Any] = call
    finished = False
    try:
        value = await waiting
        finished = True
    except RayError as error:
        finished = True
        raise translate(error, instance) from error
    finally:
        if not finished:
            ray.cancel(call)
    return value


def translate(error: BaseException, instance: str) -> PenstockError:
    """What an error of Ray's means to the caller of an instance."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, PenstockError):
            return error.cause.at(instance)
        return EngineFailed(f"The instance failed: {type(error.cause).__name__}: {error.cause}", instance=instance)
    if isinstance(error, TaskCancelledError):
        return Cancelled("The call was cancelled.", instance=instance)
    if isinstance(error, RayActorError):
        return InstanceLost(f"The instance {instance} died or cannot be reached.", instance=instance).because("died")
    return InstanceLost(f"The way to instance {instance} broke: {type(error).__name__}.", instance=instance)
