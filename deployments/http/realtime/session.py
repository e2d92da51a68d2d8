"""One realtime session: client events in, server events out, around a conversation."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from deployments.database.session_record import SessionRecord
from deployments.http.realtime.client_events import (
    ClientEvent,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    TextAppend,
    TextClear,
    TextCommit,
    parse_event,
)
from deployments.http.realtime.items import message_of, written
from deployments.http.realtime.response import Response
from deployments.http.realtime.session_body import SessionFields, input_messages, session_written
from deployments.http.server.error_response import public_message
from deployments.http.server.names import Names
from deployments.http.server.validation import invalid_request
from engines.context import Context
from engines.contract import Engine
from engines.conversation.conversation import Conversation
from engines.conversation.events import (
    ConversationEvent,
    FrameRefused,
    TurnDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from engines.conversation.frames import Append, Cancel, Configure, Delete, Frame, Open, Respond
from engines.conversation.journal import ConversationLimits
from engines.errors import InvalidRequest, PenstockError
from engines.events import Finished
from engines.messages import Message


class ActiveResponse(InvalidRequest):
    """The conversation's response has not ended yet."""

    code = "conversation_already_has_active_response"


class NoActiveResponse(InvalidRequest):
    """There is none that could be cancelled."""

    code = "response_cancel_not_active"


class Turns(Protocol):
    """What wants to know of a session's turns: figures and logs."""

    def asked(self, turn: str) -> None:
        """A turn was asked for."""

    def said(self, event: TurnStarted | TurnDelta) -> None:
        """It said something."""

    def ended(self, event: TurnFinished | TurnFailed) -> None:
        """It ended."""


class RealtimeSession:
    """Speaks the API. Whoever holds it hands it texts, and takes those that it sends.

    Args:
        engine: What answers.
        id: The session's id.
        opened: Its model, by the name that the client asked for; how its turns are answered; and what was said in it,
            if it is taken up.
        context: The session's; killing it ends everything.
        send: Takes an event, as JSON text.
        ended: Called once the conversation has ended, with the error if it is one.
        limits: What the conversation may hold.
        rate_limits: What is left of the tenant's quotas, as the API writes them; asked at each response.
        turns: Hears of its turns.
    """

    def __init__(
        self,
        engine: Engine,
        id: str,
        opened: Open,
        context: Context,
        send: Callable[[str], None],
        ended: Callable[[PenstockError | None], None],
        limits: ConversationLimits,
        rate_limits: Callable[[], Sequence[Mapping[str, Any]]],
        turns: Turns,
    ) -> None:
        self.id = id
        self._model = opened.model
        self._send_text = send
        self._ended = ended
        self._rate_limits = rate_limits
        self._turns = turns
        self._events = 0
        self._responses: dict[str, Response] = {}
        self._cause: str | None = None
        self._draft: str | None = None
        self._refused: PenstockError | None = None
        self._record: SessionRecord | None = None
        self._conversation = Conversation(engine, opened, context, self, limits)
        session = self._session()
        if opened.items:
            # Whoever takes it up may not know how much of what it said had arrived.
            session["last_item_id"] = self._conversation.journal.last
        self._send("session.created", session=session)

    def keep(self, record: SessionRecord, changed: Callable[[], None]) -> None:
        """Lets a record follow it.

        Args:
            record: What is to follow it.
            changed: Called when there is something to write.
        """
        conversation = self._conversation
        record.follow(conversation.journal, lambda: conversation.settings, changed)
        self._record = record

    @property
    def is_answering(self) -> bool:
        """Whether a response is under way."""
        return bool(self._responses)

    def stop(self) -> None:
        """Ends what is being answered; each response says that it was cancelled."""
        self._conversation.context.stop()

    def take(self, data: Mapping[str, Any]) -> None:
        """Takes a client's event; what is wrong with it is answered, and never the end of the session."""
        event_id = data.get("event_id")
        self._cause = event_id[:512] if isinstance(event_id, str) else None
        try:
            self._take(parse_event(data))
        except ValidationError as error:
            self.refuse(invalid_request(error, Names(data)))
        except PenstockError as error:
            self.refuse(error)
        finally:
            self._cause = None

    def refuse(self, error: PenstockError) -> None:
        """Says that something is wrong."""
        body = {
            "type": error.kind,
            "code": error.code,
            "message": public_message(error, self.id),
            "param": error.param,
            "event_id": self._cause,
        }
        self._send("error", error=body)

    def _take(self, event: ClientEvent) -> None:
        match event:
            case SessionUpdate():
                self._configure(event.session)
                self._send("session.updated", session=self._session())
            case ItemCreate():
                self._create(event)
            case ItemDelete():
                self._to_conversation(Delete(item=event.item_id), "item_id")
                self._send("conversation.item.deleted", item_id=event.item_id)
            case ItemRetrieve():
                message = self._find(event.item_id, "item_id")
                self._send("conversation.item.retrieved", item=written(event.item_id, message))
            case TextAppend():
                self._append_text(event.text)
            case TextCommit():
                self._commit_text()
            case TextClear():
                if self._draft is not None:
                    self._to_conversation(Delete(item=self._draft), None)
                    self._draft = None
                self._send("input_text_buffer.cleared")
            case ResponseCreate():
                self._respond(event)
            case ResponseCancel():
                self._cancel(event.response_id)

    def _configure(self, fields: SessionFields) -> None:
        fields.check("session")
        if fields.model is not None and fields.model != self._model:
            raise InvalidRequest("model: a session keeps the one that it was opened with.", param="session.model")
        self._to_conversation(Configure(settings=fields.changed(self._conversation.settings)), None)
        if self._record is not None:
            self._record.touch()

    def _create(self, event: ItemCreate) -> None:
        item = event.item
        id = item.id or f"item_{uuid.uuid4().hex}"
        message = message_of(item, id, "item")
        after = event.previous_item_id
        self._to_conversation(Append(item=id, message=message, after=after), "previous_item_id")
        self._tell_item(id, message)

    def _append_text(self, text: str) -> None:
        item = self._draft or f"item_{uuid.uuid4().hex}"
        message = Message(role="user", content=text)
        self._to_conversation(Append(item=item, message=message, open=True), "text")
        self._draft = item

    def _commit_text(self) -> None:
        text = None if self._draft is None else self._conversation.journal.draft(self._draft)
        if self._draft is None or not text:
            raise InvalidRequest("There is no text to commit: input_text_buffer.append brings some.")
        # It stands where it was committed, not where it was begun.
        item, self._draft = self._draft, None
        message = Message(role="user", content=text)
        self._to_conversation(Delete(item=item), None)
        previous = self._conversation.journal.last
        self._to_conversation(Append(item=item, message=message), None)
        self._send("input_text_buffer.committed", item_id=item, previous_item_id=previous)
        self._tell_item(item, message)

    def _respond(self, event: ResponseCreate) -> None:
        body, conversation = event.response, self._conversation
        body.check("response")
        aside = body.conversation == "none"
        if not aside and any(not response.aside for response in self._responses.values()):
            raise ActiveResponse("The conversation's response has not ended yet: cancel it, or wait for response.done.")
        messages = None
        if body.input is not None:
            messages = input_messages(body.input, conversation.journal.find, message_of)
        settings = body.settings(conversation.settings, messages)
        id = f"resp_{uuid.uuid4().hex}"
        most = settings.sampling.max_tokens
        fields = {
            "conversation_id": None if aside else f"conv_{self.id[5:]}",
            "max_output_tokens": "inf" if most is None else most,
            "metadata": body.metadata,
        }
        # The answer's place is in the journal by the time that anything is said.
        response = Response(id, self._send, fields, lambda: conversation.journal.before(f"{id}."), aside=aside)
        self._responses[id] = response
        response.begin()
        self._turns.asked(id)
        limits = self._rate_limits()
        if limits:
            self._send("rate_limits.updated", rate_limits=list(limits))
        try:
            self._to_conversation(Respond(turn=id, settings=settings), None)
        except PenstockError as error:
            self._end(TurnFailed(id, error))

    def _cancel(self, id: str | None) -> None:
        if id is None:
            id = next((id for id, response in self._responses.items() if not response.aside), None)
        if id not in self._responses:
            raise NoActiveResponse("There is no response under way that could be cancelled.", param="response_id")
        self._conversation.take(Cancel(turn=id))

    def _to_conversation(self, frame: Frame, param: str | None) -> None:
        """Hands a frame on.

        Raises:
            PenstockError: It was refused; names the client's field.
        """
        self._conversation.take(frame)
        if self._refused is not None:
            error, self._refused = self._refused, None
            error.param = param
            raise error

    def _find(self, item: str, param: str) -> Message:
        try:
            return self._conversation.journal.find(item)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=param) from None

    def _tell_item(self, id: str, message: Message) -> None:
        previous = self._conversation.journal.before(id)
        item = written(id, message)
        self._send("conversation.item.added", previous_item_id=previous, item=item)
        self._send("conversation.item.done", previous_item_id=previous, item=item)

    def _session(self) -> dict[str, Any]:
        return session_written(self.id, self._model, self._conversation.settings)

    def _send(self, type: str, /, **fields: Any) -> None:
        self._events += 1
        self._send_text(json.dumps({"type": type, "event_id": f"event_{self.id[5:13]}_{self._events}", **fields}))

    def emit(self, event: ConversationEvent) -> None:
        """Takes what the conversation says."""
        match event:
            case TurnDelta():
                self._turns.said(event)
                self._responses[event.turn].add(event)
            case TurnStarted():
                self._turns.said(event)
            case TurnFinished() | TurnFailed():
                self._end(event)
            case FrameRefused():
                self._refused = event.error
            case Finished():
                self._ended(None)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the conversation."""
        self._ended(error)

    def _end(self, event: TurnFinished | TurnFailed) -> None:
        self._responses.pop(event.turn).end(event)
        self._turns.ended(event)
