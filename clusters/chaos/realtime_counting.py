"""A question to count, asked in a realtime session of its own."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from clusters.chaos.answer import Answer

_REFUSED = (429, 503)
_REFUSALS = frozenset(
    {"queue_full", "queue_timeout", "rate_limited", "overloaded", "not_ready", "no_instance", "draining"}
)
"""Codes of what was refused before it began."""
_QUESTION = "question"
"""The id of the item that asks."""
_GOES_ON = ""
_TRIES = 20
_RETRY_S = 0.25
"""How often, and after which pauses, a session is tried to be taken up that nobody takes up."""


async def count_in_session(
    http: aiohttp.ClientSession,
    url: str,
    model: str,
    question: str,
    answer: Answer,
    began: Callable[[Answer], None],
) -> str | None:
    """Opens a session, asks, and reads the answer.

    Args:
        http: What asks.
        url: Where sessions are opened.
        model: Which model is asked.
        question: What it is asked.
        answer: Takes what it says.
        began: Called with the answer once an engine has its turn.

    Returns:
        Why it was refused before it began; None: it was not.

    Raises:
        aiohttp.ClientError: The connection broke.
    """
    session = _Session(url, model, question, answer, began)
    tries = 0
    while True:
        try:
            return await session.ask(http)
        except aiohttp.WSServerHandshakeError as error:
            if session.id is None and error.status in _REFUSED:
                return f"The session was refused: {error.status}."
            failed: aiohttp.ClientError = error
        except aiohttp.ClientError as error:
            if session.is_taken_up:
                tries = 0
            failed = error
        # As OpenAI's own client does: another router takes it up.
        tries += 1
        if session.id is None or tries > _TRIES:
            raise failed
        await asyncio.sleep(_RETRY_S)


class _Session:
    """One session, over one connection or several.

    Args:
        url: Where sessions are opened.
        model: Which model is asked.
        question: What it is asked.
        answer: Takes what it says.
        began: Called with the answer once an engine has its turn.

    Attributes:
        id: Its id, once known.
        is_taken_up: Whether the connection that there was last was that of a session which was there before.
    """

    def __init__(self, url: str, model: str, question: str, answer: Answer, began: Callable[[Answer], None]) -> None:
        self.id: str | None = None
        self.is_taken_up = False
        self._url = url
        self._model = model
        self._question = question
        self._answer = answer
        self._began = began
        self._is_asked = False

    async def ask(self, http: aiohttp.ClientSession) -> str | None:
        """Asks, or asks again, and reads the answer; why it was refused before it began, None: it was not.

        Raises:
            aiohttp.ClientError: The connection broke, or there is none to be had.
        """
        self.is_taken_up = False
        params = {"model": self._model} | ({} if self.id is None else {"session_id": self.id})
        async with http.ws_connect(self._url, params=params, compress=0) as socket:
            async for message in socket:
                event: dict[str, Any] = json.loads(message.data)
                if event["type"] == "session.created":
                    await self._begin(socket, event["session"])
                elif (is_refused := self._take(event)) is not _GOES_ON:
                    return is_refused
            if socket.close_code == aiohttp.WSCloseCode.SERVICE_RESTART and not self._is_asked:
                return "The router ended before the turn began."
        raise aiohttp.ServerDisconnectedError("The session was closed in the middle of an answer.")

    async def _begin(self, socket: aiohttp.ClientWebSocketResponse, session: dict[str, Any]) -> None:
        self.is_taken_up = self.id is not None
        self.id = session["id"]
        last = session.get("last_item_id")
        if self.is_taken_up:
            self._answer.taken_up += 1
        if last is None:
            content = [{"type": "input_text", "text": self._question}]
            item = {"type": "message", "role": "user", "id": _QUESTION, "content": content}
            await socket.send_json({"type": "session.update", "session": {"type": "realtime", "temperature": 0}})
            await socket.send_json({"type": "conversation.item.create", "item": item})
        elif last != _QUESTION:
            # It was answered, and the end of that has not come.
            await socket.send_json({"type": "conversation.item.retrieve", "item_id": last})
            return
        self._answer.begin_again()
        await socket.send_json({"type": "response.create"})

    def _take(self, event: dict[str, Any]) -> str | None:
        answer = self._answer
        match event["type"]:
            case "response.created":
                self._is_asked = True
            case "response.output_item.added":
                # As the head of a chat's stream says it: an engine has the turn.
                self._began(answer)
            case "response.output_text.delta":
                answer.say(event["delta"])
            case "conversation.item.retrieved":
                answer.begin_again()
                answer.say("".join(part["text"] for part in event["item"]["content"]))
                answer.finish()
                return None
            case "error":
                answer.error = event["error"]["message"]
                return None
            case "response.done":
                error = (event["response"]["status_details"] or {}).get("error")
                if error is None:
                    answer.finish()
                elif error["code"] in _REFUSALS and not answer.text:
                    return str(error["message"])
                else:
                    answer.error = error["message"]
                return None
        return _GOES_ON
