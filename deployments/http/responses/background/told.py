"""A response in the background as its batches tell it: the same events with the same numbers, whoever reads them."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.http.responses.background.batches import Batch, Told, joined
from deployments.http.responses.reasoning import Thought
from deployments.http.responses.response_events import ResponseOutput, Seal
from deployments.http.responses.response_object import ResponseObject
from engines.events import Finished, Started
from engines.operators.replay import Said


@dataclass(frozen=True, slots=True)
class Head:
    """How a response is told.

    Attributes:
        id: Its id.
        created_s: Unix time.
        fields: What it was asked for, as its client reads it.
        custom: Names of the tools that are custom ones.
        encrypts: Whether its client wants its reasoning encrypted, too.
    """

    id: str
    created_s: int
    fields: Mapping[str, Any]
    custom: Sequence[str]
    encrypts: bool

    @property
    def text(self) -> str:
        """All but its id, as JSON text."""
        return json.dumps([self.created_s, self.fields, list(self.custom), self.encrypts])

    @classmethod
    def parse(cls, id: str, text: str) -> "Head":
        """The head of a text."""
        return cls(id, *json.loads(text))

    @property
    def response(self) -> ResponseObject:
        """Writes the response."""
        return ResponseObject(self.id, self.created_s, self.fields, is_stored=True)


def unfinished_text(head: Head, *, is_started: bool) -> str:
    """A response that has not ended, as JSON text: what it has said by now comes in its stream."""
    return head.response.text("", is_queued=not is_started)


class ToldResponse:
    """Tells one response, from its beginning on.

    Args:
        head: How it is told.
        seal: Encrypts what was thought; None: all that is told was told before.
        is_made: Whether it is told by whoever makes it, who has to end it.

    Attributes:
        response: Writes the response.
        output: Its items.
        started: Its first event; None: it waits.
        said: What was said, where it is made, for an engine that has to say it again.
        token_ids: The ids of that.
    """

    def __init__(self, head: Head, seal: Seal | None = None, *, is_made: bool = False) -> None:
        self.response = head.response
        id = head.id.removeprefix("resp_")
        custom = frozenset(head.custom)
        self.output = ResponseOutput(id, custom, self._sealed, encrypts=head.encrypts, keeps_rhythm=is_made)
        self.started: Started | None = None
        self.said = Said()
        self.token_ids: list[int] = []
        self._seal = seal
        self._is_made = is_made
        self._known: deque[str] = deque()
        self._new: list[str] = []

    def opening(self) -> str:
        """The events of a response that waits."""
        response = f'"response":{self.response.text("", is_queued=True)}'
        writer = self.output.writer
        return writer.event("response.created", response) + writer.event("response.queued", response)

    def tell(self, batch: Batch) -> str:
        """The events of a batch that was told before."""
        self._known.extend(batch.sealed)
        return "".join([self._told(event) for event in batch.events])

    def tell_new(self, events: Sequence[Told]) -> Batch:
        """Tells events for the first time; returns what has to be stored before anybody reads of them."""
        self._new = []
        events = joined(events)
        for event in events:
            self._told(event)
        return Batch(events, self._new)

    def finish(self, event: Finished) -> None:
        """Ends its items, as the engine has."""
        self.output.told(event)

    def cut_short(self) -> None:
        """Ends its items, where the engine has not."""
        self.output.end("incomplete")

    def _told(self, event: Told) -> str:
        if isinstance(event, Started):
            if self.started is not None:
                return ""
            self.started = event
            return self.output.writer.event("response.in_progress", f'"response":{self.response.text("")}')
        if self._is_made:
            self.said.add(event)
            self.token_ids += getattr(event, "token_ids", ())
        return self.output.told(event)

    def _sealed(self, thought: Thought) -> str:
        if self._known:
            return self._known.popleft()
        assert self._seal is not None, "what was told before has all that it has sealed"
        sealed = self._seal(thought)
        self._new.append(sealed)
        return sealed
