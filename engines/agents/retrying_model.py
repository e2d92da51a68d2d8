"""A model whose setup errors are tried again: what the operator `Retry` is to an engine, for a handle of any kind."""

import random
from collections.abc import Callable

from engines.agents.completion_model import ChatRequest, ChatStream, CompletionModel
from engines.context import Context
from engines.errors import PenstockError
from engines.operators.retry import RetryOptions, may_try_again


class RetryingModel(CompletionModel):
    """Tries again what failed before anything was said, if it may pass by itself.

    Args:
        inner: The model.
        options: When to try again, and how often.
        share: A random number from 0 to 1.
    """

    def __init__(
        self,
        inner: CompletionModel,
        options: RetryOptions | None = None,
        share: Callable[[], float] = random.random,
    ) -> None:
        self.name = inner.name
        self.model = inner.model
        self.inner = inner
        self.options = options or RetryOptions()
        self._share = share

    async def chat_stream(self, request: ChatRequest, context: Context | None = None) -> ChatStream:
        """Asks until the answer has begun. Raises the last attempt's error, and `Cancelled` when the caller ends it."""
        context = context or Context()
        attempt = 1
        while True:
            # An attempt that failed has killed its context; the next one needs its own.
            try:
                return await self.inner.chat_stream(request, context.child())
            except PenstockError as error:
                if not await may_try_again(self.options, attempt, error, context, self._share()):
                    if context.is_stopped:
                        raise context.cancellation() from error
                    raise
            attempt += 1
