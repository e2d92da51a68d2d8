"""Attachments: those of a request are read once, before anything else sees it, and travel on beside its messages."""

from typing import TypeVar, cast

from engines.attachments.beside import check_kinds, without_data
from engines.attachments.reader import AttachmentReader
from engines.call_requests import Answer, CallRequest, TokenizeRequest
from engines.context import Context
from engines.messages import media_parts
from engines.operators.operator import Transparent
from engines.requests import GenerateRequest
from engines.sink import Sink

_Request = TypeVar("_Request", GenerateRequest, TokenizeRequest)


class Attachments(Transparent):
    """Stands around every model of a fleet, outside of all other operators: what they send again is read already.

    Args:
        reader: Reads the attachments.
    """

    def __init__(self, reader: AttachmentReader | None = None) -> None:
        self._reader = reader or AttachmentReader()

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        """Answers into a sink.

        Raises:
            Unsupported: The model does not take attachments of that kind; names the part.
            AttachmentRefused: One cannot be read, or is over a limit; names it.
            PenstockError: As the inner engine says.
        """
        if any(True for _ in media_parts(request.messages or ())):
            request = await self._read(request)
            if context.is_killed:
                raise context.cancellation()
        await self.inner.submit(request, context, sink)

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, without a stream. Raises what `submit` raises."""
        if isinstance(request, TokenizeRequest) and any(True for _ in media_parts(request.messages or ())):
            request = cast("CallRequest[Answer]", await self._read(request))
        return await self.inner.call(request, context)

    async def _read(self, request: _Request) -> _Request:
        assert request.messages is not None
        if self.ready:  # What a model takes is not known before.
            check_kinds(request.messages, self.capabilities)
        if request.attachments:
            return request
        attachments = await self._reader.read(request.messages)
        return request.model_copy(update={"messages": without_data(request.messages), "attachments": attachments})
