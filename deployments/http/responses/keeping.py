"""A response that is being made, on its way into the database."""

import json
from collections.abc import Sequence

from deployments.database.database import DatabaseUnavailable
from deployments.database.kept_responses import KeptResponse, KeptResponses, Size
from deployments.http.responses.items import written
from deployments.http.responses.response_events import ResponseOutput
from deployments.http.responses.response_object import End, ResponseObject
from deployments.http.responses.said import Placed
from engines.turns import Turns


class Keeper:
    """Stores a response once it has ended.

    Args:
        kept: Where.
        response: The response.
        output: Its items.
        input: The items that its request adds to the conversation.
        tenant: Whose it is.
        previous: The id of the response that it goes on from; None: it is the first.
        history: How much there is of the conversation up to that; None: nothing.
        is_asked_for: Whether its client has asked for that; it is answered all the same otherwise.
    """

    def __init__(
        self,
        kept: KeptResponses,
        response: ResponseObject,
        output: ResponseOutput,
        input: Sequence[Placed],
        tenant: str,
        previous: str | None,
        history: Size | None,
        *,
        is_asked_for: bool,
    ) -> None:
        self._kept = kept
        self._response = response
        self._output = output
        self._input = input
        self._tenant = tenant
        self._previous = previous
        self._history = history
        self._is_asked_for = is_asked_for

    async def keep(self, end: End) -> None:
        """Stores it as it has ended; where that fails, it says that it is not stored.

        Raises:
            DatabaseUnavailable: That has failed, and was asked for.
        """
        response, output = self._response, self._output
        given = await self._given()
        before = self._history or Size(0, 0)
        answered = f"[{output.json}]"
        history = Size(before.links + 1, before.bytes + len(given) + len(answered))
        rhythm = "" if output.writer.rhythm is None else json.dumps(output.writer.rhythm, separators=(",", ":"))
        kept = KeptResponse(response.id, response.text("", end), given, answered, rhythm, self._previous, history)
        try:
            await self._kept.keep(kept, self._tenant)
        except DatabaseUnavailable:
            response.is_stored = False
            if self._is_asked_for:
                raise

    async def _given(self) -> str:
        """The items of the input, as JSON text."""
        made_of = self._response.id.removeprefix("resp_")
        texts: list[str] = []
        ids: set[str] = set()
        turns = Turns()
        for index, (item, _) in enumerate(self._input):
            # Who lists them goes on after one, by its id.
            new = item if item.id not in ids else item.model_copy(update={"id": None})
            made = written(new, f"{made_of}_in{index}")
            ids.add(made["id"])
            texts.append(json.dumps(made))
            await turns.pause()
        return f"[{','.join(texts)}]"
