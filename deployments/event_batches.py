"""Events in batches, for ways that cost by the item, as Ray's streaming calls do."""

from collections.abc import AsyncIterator

from engines.context import Context
from engines.contract import Engine
from engines.events import Event, Finished
from engines.requests import GenerateRequest
from engines.sink import Mailbox


async def in_batches(engine: Engine, request: GenerateRequest, context: Context) -> AsyncIterator[list[Event]]:
    """The events of an answer, in batches: a batch is never waited for, and grows while its reader is busy.

    Dropping the iterator kills the context.

    Raises:
        PenstockError: As `Engine.generate`.
    """
    mailbox = Mailbox()
    try:
        await engine.submit(request, context, mailbox)
        while True:
            events = await mailbox.get_all()
            yield events
            if isinstance(events[-1], Finished):
                return
    finally:
        context.kill()  # A stream that ended already takes no notice.
