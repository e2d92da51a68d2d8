"""A model whose setup errors are tried again: what the operator `Retry` is to an engine, for a handle of any kind."""

import random
from collections.abc import Callable

from engines.agents.completion_model import ChatRequest, ChatStream, CompletionModel
from engines.context import Context
from engines.operators.retry import RetryOptions, retried


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
        # An attempt that failed may have killed its context; the next one needs its own.
        return await retried(
            lambda: self.inner.chat_stream(request, context.child()), self.options, context, self._share
        )
