"""Calls to an instance without a stream, while they are under way: each ends with the channel, if not before."""

import asyncio
from collections.abc import Callable
from typing import Any

from actors.channel.calls import result
from engines.call_requests import Request
from engines.context import Context
from engines.errors import InstanceLost


class PendingCalls:
    """The calls of one channel.

    Args:
        instance: The instance's id.
    """

    __slots__ = ("_instance", "_waiting")

    def __init__(self, instance: str) -> None:
        self._instance = instance
        # What was asked, by what is to end the wait for its answer.
        self._waiting: dict[asyncio.Future[Any], Request] = {}

    @property
    def requests(self) -> list[Request]:
        """What was asked."""
        return list(self._waiting.values())

    def fail(self, error: InstanceLost) -> None:
        """The channel is lost."""
        for lost in self._waiting:
            if not lost.done():
                lost.set_exception(error)

    async def answer(
        self, request: Request, call: Any, context: Context, found_lost: Callable[[InstanceLost], None]
    ) -> Any:
        """What a call returned.

        Args:
            request: What was asked.
            call: The actor call that asked it.
            context: Ends the wait when it is stopped.
            found_lost: Called where the call's answer is that the instance is lost.

        Raises:
            Cancelled: The context was stopped.
            PenstockError: The call failed, or the channel was lost.
        """
        return await context.unless_stopped(self._ask(request, call, found_lost))

    async def _ask(self, request: Request, call: Any, found_lost: Callable[[InstanceLost], None]) -> Any:
        answer = asyncio.ensure_future(result(call, self._instance))
        lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Whoever asked may have given up.
        lost.add_done_callback(lambda lost: lost.cancelled() or lost.exception())
        self._waiting[lost] = request
        try:
            await asyncio.wait({answer, lost}, return_when=asyncio.FIRST_COMPLETED)
            error = answer.exception() if answer.done() else None
            if isinstance(error, InstanceLost):
                # The channel is about to find out, and whoever asks next must know by then.
                found_lost(error)
            if lost.done():
                lost.result()
            return answer.result()
        finally:
            del self._waiting[lost]
            answer.cancel()
