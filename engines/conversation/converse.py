"""A conversation that is pulled: an iterator of frames in, an iterator of events out."""

import asyncio
from collections.abc import AsyncIterator

from engines.context import Context
from engines.conversation.conversation import Conversation, Generates
from engines.conversation.events import ConversationEvent
from engines.conversation.frames import Frame, Open, Respond
from engines.errors import InvalidRequest, PenstockError
from engines.events import Finished
from engines.sink import Mailbox


async def converse(
    engine: Generates, frames: AsyncIterator[Frame], context: Context
) -> AsyncIterator[ConversationEvent]:
    """The events of a conversation, to the one `Finished`.

    Frames are read as they come, and not while as many turns run or wait as may. Dropping the iterator kills what
    runs, and closes that of the frames.

    Args:
        engine: What answers its turns.
        frames: The frames, `Open` first; their end is the conversation's, after its last turn.
        context: Its identity; stopping it ends what runs, and it.

    Raises:
        InvalidRequest: The first frame is not `Open`, or its items do not fit one another.
        Cancelled: The context was killed.
        Exception: What the iterator of frames raised.
    """
    inner = Context(context.id)
    unlink = context.link(inner)
    mailbox = Mailbox[ConversationEvent]()
    feeding = asyncio.get_running_loop().create_task(_feed(engine, frames, inner, mailbox))
    try:
        while True:
            try:
                event = await mailbox.get()
            except PenstockError:
                if feeding.done() and not feeding.cancelled():
                    feeding.result()
                raise
            yield event
            if isinstance(event, Finished):
                return
    finally:
        unlink()
        feeding.cancel()
        inner.kill()


async def _feed(
    engine: Generates, frames: AsyncIterator[Frame], context: Context, mailbox: Mailbox[ConversationEvent]
) -> None:
    """Hands the frames to a conversation.

    Raises:
        Exception: What they raised; the mailbox has failed then, too.
    """
    conversation: Conversation | None = None
    try:
        async for frame in frames:
            if conversation is not None:
                if isinstance(frame, Respond):
                    await conversation.has_room()
                conversation.take(frame)
            elif isinstance(frame, Open):
                conversation = Conversation(engine, frame, context, mailbox)
            else:
                raise InvalidRequest(f"The first frame of a conversation is Open; it was {type(frame).__name__}.")
        if conversation is None:
            raise InvalidRequest("The first frame of a conversation is Open; there was none.")
    except Exception:
        context.kill()
        mailbox.fail(context.cancellation())
        raise
    conversation.end()
