"""A response that has ended, as the stream that it was: the same events, with the same numbers.

What was said is in the response; its rhythm (`EventWriter.rhythm`) says where each piece of it began and ended.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.http.responses.item_events import BEGIN, END, LOGPROBS, EventWriter, OutputItem
from deployments.http.responses.response_object import end_event

_UNENDED: Mapping[str, Any] = {
    "status": "in_progress",
    "output": [],
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "usage": None,
}


def replayed(response: Mapping[str, Any], rhythm: Sequence[int]) -> Iterator[str]:
    """The events of a response, one after another.

    Args:
        response: The response, as clients read it.
        rhythm: How it was said; empty: all of each item in one piece.
    """
    writer = EventWriter()
    begun = f'"response":{json.dumps({**response, **_UNENDED})}'
    if response["background"]:
        queued = f'"response":{json.dumps({**response, **_UNENDED, "status": "queued"})}'
        yield writer.event("response.created", queued)
        yield writer.event("response.queued", queued)
    else:
        yield writer.event("response.created", begun)
    yield writer.event("response.in_progress", begun)
    for events in _item_events(writer, response["output"], rhythm or _in_one_piece(response["output"])):
        yield from (f"{event}\n\n" for event in events.split("\n\n")[:-1])
    yield writer.event(end_event(response["status"]), f'"response":{json.dumps(response)}')


def _item_events(writer: EventWriter, output: Sequence[Mapping[str, Any]], rhythm: Sequence[int]) -> Iterator[str]:
    texts = [_text(item) for item in output]
    logprobs = [_logprobs(item) for item in output]
    items: list[OutputItem] = []
    said = [0] * len(output)
    known = [0] * len(output)
    words = iter(rhythm)
    for word in words:
        match word:
            case _ if word == BEGIN:
                items.append(_item(output[len(items)], len(items)))
                yield items[-1].begin(writer)
            case _ if word == END:
                index = next(words)
                yield items[index].end(writer, output[index]["status"], output[index].get("encrypted_content"))
            case _:
                tokens = next(words) if word == LOGPROBS else None
                index = word if tokens is None else next(words)
                start = said[index]
                said[index] += next(words)
                event = items[index].say(writer, texts[index][start : said[index]])
                if tokens is not None:
                    first = known[index]
                    known[index] += tokens
                    some = [json.dumps(token) for token in logprobs[index][first : known[index]]]
                    event = items[index].with_logprobs(writer, event, some)
                yield event


def _in_one_piece(output: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    rhythm: list[int] = []
    for index, item in enumerate(output):
        rhythm.append(BEGIN)
        if text := _text(item):
            if tokens := _logprobs(item):
                rhythm += (LOGPROBS, len(tokens))
            rhythm += (index, len(text))
        rhythm += (END, index)
    return rhythm


def _item(item: Mapping[str, Any], index: int) -> OutputItem:
    is_redacted = item["type"] == "reasoning" and not item["content"]
    redacted = item["encrypted_content"] if is_redacted else None
    return OutputItem(item["type"], item["id"], index, item.get("call_id", ""), item.get("name", ""), redacted)


def _text(item: Mapping[str, Any]) -> str:
    """What an item says."""
    if "content" in item:
        return "".join(part["text"] for part in item["content"])
    said: str = item["arguments" if item["type"] == "function_call" else "input"]
    return said


def _logprobs(item: Mapping[str, Any]) -> Sequence[Any]:
    return [token for part in item.get("content", ()) for token in part.get("logprobs", ())]
