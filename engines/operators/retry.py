"""Retry: what failed before anything was said is tried again after a while."""

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import Field

from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.errors import Cancelled, PenstockError
from engines.operators.operator import OperatorOptions, Transparent, end_before_start
from engines.requests import GenerateRequest
from engines.sink import Sink

T = TypeVar("T")


class RetryOptions(OperatorOptions):
    """When to try again, and how often.

    The wait before the next attempt doubles from `base_s` up to `cap_s`, and grows by a random share, so that many
    callers do not come back at the same moment. Where the error says when to come back (`Retry-After`), that is the
    wait.

    Attributes:
        attempts: How often a request is tried in all.
        base_s: Seconds before the second attempt.
        cap_s: Most seconds of a wait that the error does not name.
        jitter: Largest random share by which such a wait grows.
        longest_retry_after_s: An error that asks for a longer wait than this is not waited for.
    """

    attempts: int = Field(3, ge=1, le=100)
    base_s: float = Field(1.0, ge=0)
    cap_s: float = Field(30.0, ge=0)
    jitter: float = Field(0.1, ge=0, le=1)
    longest_retry_after_s: float = Field(120.0, ge=0)

    def wait_s(self, attempt: int, error: PenstockError, share: float) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: Which one failed, from 1.
            error: What it failed with.
            share: How much of the jitter to take, from 0 to 1.
        """
        if error.retry_after_s is not None:
            return error.retry_after_s
        return min(self.cap_s, self.base_s * 2.0 ** (attempt - 1)) * (1 + self.jitter * share)


class Retry(Transparent):
    """Tries setup errors again that may pass by themselves (`PenstockError.transient`).

    It does not wait past the deadline of a request's context, and a request that is cancelled while it waits is not
    tried again.

    Args:
        options: When to try again, and how often.
        share: A random number from 0 to 1.
    """

    def __init__(self, options: RetryOptions | None = None, share: Callable[[], float] = random.random) -> None:
        self.options = options or RetryOptions()
        self._share = share

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink; returns once the request is accepted. Raises the last attempt's error before that."""
        try:
            await self._retried(lambda: self.inner.submit(request, context, sink), context)
        except Cancelled:
            if context.is_killed or not context.is_stopped:
                raise
            end_before_start(request, self.name, sink)

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises the last attempt's error where it cannot."""
        return await self._retried(lambda: self.inner.call(request, context), context)

    async def _retried(self, ask: Callable[[], Awaitable[T]], context: Context) -> T:
        return await retried(ask, self.options, context, self._share)


async def retried(
    ask: Callable[[], Awaitable[T]], options: RetryOptions, context: Context, share: Callable[[], float]
) -> T:
    """What an attempt returns that does not fail.

    Args:
        ask: Makes an attempt.
        options: When to try again, and how often.
        context: The request's: nobody waits past its deadline, or once it is cancelled.
        share: How much of the jitter to take, from 0 to 1.

    Raises:
        Cancelled: The context was stopped or killed, and the last attempt failed.
        PenstockError: The last attempt's.
    """
    attempt = 1
    while True:
        try:
            return await ask()
        except PenstockError as error:
            if not await _may_try_again(options, attempt, error, context, share()):
                if context.is_stopped:
                    raise context.cancellation() from error
                raise
        attempt += 1


async def _may_try_again(
    options: RetryOptions, attempt: int, error: PenstockError, context: Context, share: float
) -> bool:
    """Waits as long as it takes until the next attempt; whether there is one."""
    if not error.transient or attempt >= options.attempts or context.is_stopped:
        return False
    wait_s = options.wait_s(attempt, error, share)
    if wait_s > max(options.longest_retry_after_s, options.cap_s * (1 + options.jitter)):
        return False
    if time.monotonic() + wait_s >= context.deadline_s:
        return False
    return await context.sleep(wait_s)
