"""A chat completion that is being made, on its way into the database."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.database.kept_chat_completions import KeptChatCompletion, KeptChatCompletions, new_id
from deployments.http.openai.chat_body import ChatBody, NoteBody
from deployments.http.openai.chat_completion import chat_completion
from deployments.http.server.exchange import Exchange
from deployments.http.server.long_answer import pieces_of, whole
from deployments.http.server.validation import parse_body
from engines.completion import Completion, CompletionBuilder
from engines.events import Event
from engines.turns import Turns

_ASKED = ("tool_choice", "seed", "top_p", "temperature", "presence_penalty", "frequency_penalty", "response_format")
"""What a stored completion says of its request, besides its tools and who its user was."""


class ChatKeeper:
    """Stores a completion once it has ended.

    Args:
        kept: Where.
        exchange: What asks for it.
        body: Its body.
        metadata: What its client notes on it.
        asked: What is said of the request, as JSON text.
        messages: Those of the request, each as JSON text.

    Attributes:
        id: The completion's.
    """

    def __init__(
        self,
        kept: KeptChatCompletions,
        exchange: Exchange,
        body: ChatBody,
        metadata: Mapping[str, str],
        asked: str,
        messages: Sequence[str],
    ) -> None:
        # The client names its requests as it likes, and no two completions may have one id.
        self.id = new_id()
        self._kept = kept
        self._exchange = exchange
        self._body = body
        self._metadata = metadata
        self._asked = asked
        self._messages = messages
        self._builder = CompletionBuilder()
        self._completion: Completion | None = None

    def hear(self, event: Event) -> None:
        """Takes the next event of the answer."""
        self._completion = self._builder.add(event)

    async def keep(self) -> None:
        """Stores it, after its last event.

        Raises:
            DatabaseUnavailable: That has failed.
        """
        assert self._completion is not None
        answer = chat_completion(self.id, self._exchange.created_s, self._body, self._completion)
        text = await whole(pieces_of(answer))
        kept = KeptChatCompletion(self.id, f"{text[:-1]}, {self._asked[1:]}", self._metadata)
        await self._kept.keep(kept, self._body.model, self._messages, self._exchange.tenant.name)


async def chat_keeper(exchange: Exchange, body: ChatBody, data: Mapping[str, Any]) -> ChatKeeper | None:
    """What stores the completion of a request; None: it is not to be stored, or there is no database.

    Args:
        exchange: The request.
        body: Its body.
        data: What that was parsed from.

    Raises:
        InvalidRequest: The metadata is more than may be noted.
        DatabaseUnavailable: The database is not there.
    """
    storage = exchange.services.storage
    if not body.store or storage is None:
        return None
    metadata = parse_body(NoteBody, {"metadata": body.metadata}).metadata or {}
    storage.database.check()
    # As text they take a tenth of the memory, for as long as the answer takes.
    asked = await whole(pieces_of(_asked(exchange, data)))
    messages = await _messages(data["messages"])
    return ChatKeeper(storage.chat_completions, exchange, body, metadata, asked, messages)


def _asked(exchange: Exchange, data: Mapping[str, Any]) -> dict[str, Any]:
    tools = data.get("tools")
    return {
        "request_id": exchange.id,
        **{name: data.get(name) for name in _ASKED},
        "tools": None if tools is None else iter(tools),
        "input_user": data.get("user"),
    }


async def _messages(messages: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Messages as a list of them has them, but for their ids: whoever lists them goes on after one by that."""
    texts: list[str] = []
    turns = Turns()
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else None
        said = {name: value for name, value in message.items() if name != "id"}
        said |= {
            "content": None if parts is not None else content,
            "content_parts": parts,
            "refusal": message.get("refusal"),
        }
        texts.append(json.dumps(said))
        await turns.pause()
    return texts
