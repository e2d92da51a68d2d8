"""What takes it to make a response in the background, as the database has it: a line of JSON for each part of it.

A conversation is in it as it was when the response was asked for: whoever goes on with an answer gives the model the
same to go on from, whatever has become of the conversation.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from deployments.database.kept_conversations import KeptItem
from deployments.database.kept_responses import Size
from deployments.http.responses.keeping import Place
from deployments.http.server.asking import Asking
from deployments.http.server.names import Location, Names
from engines.garbage import CollectorPaused
from engines.requests import GenerateRequest
from engines.turns import Turns


@dataclass(frozen=True, slots=True)
class BackgroundRequest:
    """What a response is made of.

    Attributes:
        asking: What an engine is asked for.
        place: Where the response stands.
        added: What its input adds to its conversation, if it is in one.
        key: The hash of the key with which it was asked for, as `Keys.holder_of` takes it.
    """

    asking: Asking
    place: Place
    added: list[KeptItem]
    key: str

    async def text(self) -> str:
        """All of it, as lines of JSON text of ASCII."""
        request, table = self.asking.request, self.asking.names.table
        messages = request.messages or []
        head = {
            "key": self.key,
            "place": asdict(self.place),
            "added": len(self.added),
            "names": len(table),
            "request": request.model_dump(exclude_unset=True, exclude={"messages"}),
        }
        lines = [json.dumps(head)]
        turns = Turns()
        for part in (self.added, table.items()):
            for one in part:
                lines.append(json.dumps(one))
                await turns.pause()
        for message in messages:
            lines.append(json.dumps(message.model_dump(exclude_unset=True)))
            await turns.pause()
        return "\n".join(lines)

    @classmethod
    async def parse(cls, text: str) -> "BackgroundRequest":
        """What was written as that text."""
        parts: list[Any] = []
        turns = Turns()
        for line in text.split("\n"):
            parts.append(json.loads(line))
            await turns.pause()
        head, *rest = parts
        added, rest = rest[: head["added"]], rest[head["added"] :]
        names, messages = rest[: head["names"]], rest[head["names"] :]
        with CollectorPaused():
            request = GenerateRequest.model_validate({**head["request"], "messages": messages})
        table: dict[Location, Location | None] = {
            tuple(theirs): None if ours is None else tuple(ours) for theirs, ours in names
        }
        place = head["place"]
        history = None if place["history"] is None else Size(**place["history"])
        return cls(
            Asking(request, Names({}, table)),
            Place(place["previous"], history, place["conversation"]),
            [(id, item) for id, item in added],
            head["key"],
        )
