"""A response that is being made, on its way into the database."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.database.database import DatabaseUnavailable
from deployments.database.kept_conversations import KeptItem
from deployments.database.kept_responses import KeptResponse, KeptResponses, Size
from deployments.http.responses.items import written
from deployments.http.responses.response_events import ResponseOutput
from deployments.http.responses.response_object import End, ResponseObject
from deployments.http.responses.said import Placed
from engines.turns import Turns


@dataclass(frozen=True, slots=True)
class Place:
    """Where a response stands.

    Attributes:
        previous: The id of the response that it goes on from; None: none.
        history: How much there is of the conversation up to that; None: nothing.
        conversation: The id of the conversation that it is in; None: none.
    """

    previous: str | None
    history: Size | None
    conversation: str | None


class Keeper:
    """Stores a response once it has ended, and adds what was said to its conversation.

    Args:
        kept: Where.
        response: The response.
        output: Its items.
        input: The items that its request adds to the conversation.
        tenant: Whose it is.
        place: Where it stands.
        is_asked_for: Whether its client has asked for that; it is answered all the same otherwise.
    """

    def __init__(
        self,
        kept: KeptResponses,
        response: ResponseObject,
        output: ResponseOutput,
        input: Sequence[Placed],
        tenant: str,
        place: Place,
        *,
        is_asked_for: bool,
    ) -> None:
        self._kept = kept
        self._response = response
        self._output = output
        self._input = input
        self._tenant = tenant
        self._place = place
        self._is_asked_for = is_asked_for

    async def keep(self, end: End) -> None:
        """Stores it as it has ended; where that fails, it says that it is not stored.

        Raises:
            DatabaseUnavailable: That has failed, and was asked for, as it is of whatever is in a conversation.
        """
        response, output = self._response, self._output
        given = items_text(await written_input(response.id, self._input, renamed=False))
        kept = kept_response(response, output, end, given, self._place)
        items: Sequence[KeptItem] = ()
        if is_said(self._place, end):
            items = [*await written_input(response.id, self._input, renamed=True), *output.items]
        is_stored = response.is_stored
        if not (is_stored or items):
            return
        try:
            await self._kept.keep(kept, self._tenant, items, is_stored=is_stored)
        except DatabaseUnavailable:
            response.is_stored = False
            if self._is_asked_for or items:
                raise


def is_said(place: Place, end: End) -> bool:
    """Whether a response that ends so is added to its conversation: what has failed is not said again to the model."""
    return place.conversation is not None and end.status in ("completed", "incomplete")


def kept_response(response: ResponseObject, output: ResponseOutput, end: End, given: str, place: Place) -> KeptResponse:
    """A response that has ended, as it is stored.

    Args:
        response: The response.
        output: Its items.
        end: How it has ended.
        given: The items of its input, as JSON text.
        place: Where it stands.
    """
    before = place.history or Size(0, 0)
    answered = f"[{output.json}]"
    history = Size(before.links + 1, before.bytes + len(given) + len(answered))
    rhythm = "" if output.writer.rhythm is None else json.dumps(output.writer.rhythm, separators=(",", ":"))
    text = response.text("", end)
    return KeptResponse(response.id, text, given, answered, rhythm, place.previous, history, place.conversation)


def items_text(items: Sequence[KeptItem]) -> str:
    """Items, as JSON text."""
    return f"[{','.join([text for _, text in items])}]"


async def written_input(response: str, input: Sequence[Placed], *, renamed: bool) -> list[KeptItem]:
    """The items of a response's input. Each has an id, since who lists them goes on after one.

    Args:
        response: The response's id.
        input: The items.
        renamed: Whether all their ids are the server's; otherwise those are that stand for another one already.
    """
    made_of = response.removeprefix("resp_")
    items: list[KeptItem] = []
    ids: set[str] = set()
    turns = Turns()
    for index, (item, _) in enumerate(input):
        new = item.model_copy(update={"id": None}) if renamed or item.id in ids else item
        made = written(new, f"{made_of}_in{index}")
        ids.add(made["id"])
        items.append((made["id"], json.dumps(made)))
        await turns.pause()
    return items
