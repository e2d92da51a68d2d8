"""A question to count, asked in a realtime session of its own."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from clusters.chaos.counting import Answer

_REFUSED = (429, 503)
_REFUSALS = frozenset(
    {"queue_full", "queue_timeout", "rate_limited", "overloaded", "not_ready", "no_instance", "draining"}
)
"""Codes of what was refused before it began."""


async def count_in_session(
    http: aiohttp.ClientSession,
    url: str,
    model: str,
    question: str,
    answer: "Answer",
    began: Callable[["Answer"], None],
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
    try:
        async with http.ws_connect(url, params={"model": model}, compress=0) as socket:
            content = [{"type": "input_text", "text": question}]
            item = {"type": "message", "role": "user", "content": content}
            for event in (
                {"type": "session.update", "session": {"type": "realtime", "temperature": 0}},
                {"type": "conversation.item.create", "item": item},
                {"type": "response.create"},
            ):
                await socket.send_json(event)
            return await _read(socket, answer, began)
    except aiohttp.WSServerHandshakeError as error:
        if error.status in _REFUSED:
            return f"The session was refused: {error.status}."
        raise


async def _read(
    socket: aiohttp.ClientWebSocketResponse, answer: "Answer", began: Callable[["Answer"], None]
) -> str | None:
    is_asked = False
    async for message in socket:
        event: dict[str, Any] = json.loads(message.data)
        match event["type"]:
            case "response.created":
                is_asked = True
            case "response.output_item.added":
                # As the head of a chat's stream says it: an engine has the turn.
                began(answer)
            case "response.output_text.delta":
                answer.say(event["delta"])
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
    if socket.close_code == aiohttp.WSCloseCode.SERVICE_RESTART and not is_asked:
        return "The router ended before the turn began."
    raise aiohttp.ServerDisconnectedError("The session was closed in the middle of an answer.")
