"""Asking over the Responses API: by OpenAI's own client, and by hand."""

import json
from typing import Any, get_args

import openai
from openai.types import responses
from openai.types.responses import Response
from pydantic import BaseModel

from tests.deployments.http.conftest import Answer, Served

PATH = "/v1/responses"
ADD: Any = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}
SHELL: Any = {"type": "custom", "name": "shell", "description": "Runs a command."}
ASKED: dict[str, Any] = {"model": "demo", "input": "hello there"}

_UNION, *_ = get_args(responses.ResponseStreamEvent)
EVENTS: dict[str, type[BaseModel]] = {
    get_args(event.model_fields["type"].annotation)[0]: event for event in get_args(_UNION)
}
"""The client's own types of events, by name."""


def client(served: Served, **options: Any) -> Any:
    """OpenAI's own client, as it comes; what is asked by it here would not all pass its types."""
    return openai.AsyncOpenAI(**{"base_url": f"{served.url}/v1", "api_key": "any", "max_retries": 0, **options})


async def ask(served: Served, **fields: Any) -> Answer:
    """Posts a body."""
    return await served.post(PATH, {**ASKED, **fields})


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each held to the client's own type for it; their numbers go on from the first one's."""
    *pieces, end = body.decode("ascii").split("\n\n")
    assert end == ""
    events = []
    for piece in pieces:
        if piece.startswith(":"):
            continue
        name, data = piece.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS[event["type"]].model_validate(event)
        events.append(event)
    numbers = [event["sequence_number"] for event in events]
    assert not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return events


def checked(response: Any) -> dict[str, Any]:
    """A response, held to the client's own type."""
    Response.model_validate(response)
    found: dict[str, Any] = response
    return found
