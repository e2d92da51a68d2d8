"""Asking over Anthropic's Messages API: by its own client, and by hand."""

import json
from typing import Any

import anthropic

from tests.deployments.http.conftest import HELLO, Answer, Served

PATH = "/v1/messages"
ADD: dict[str, Any] = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def client(served: Served, **options: Any) -> anthropic.AsyncAnthropic:
    """Anthropic's own client, as it comes."""
    return anthropic.AsyncAnthropic(**{"base_url": served.url, "api_key": "any", "max_retries": 0, **options})


async def ask(served: Served, **fields: Any) -> Answer:
    """Posts a body."""
    return await served.post(PATH, {"model": "demo", "max_tokens": 100, "messages": HELLO, **fields})


def said(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    """A message of the user's, of these blocks."""
    return [{"role": "user", "content": list(blocks)}]


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, pings left out; each has the name of its type."""
    *pieces, end = body.decode("ascii").split("\n\n")
    assert end == ""
    events = []
    for piece in pieces:
        if piece.startswith(":"):
            continue
        name, data = piece.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            events.append(event)
    return events
