"""The content of a chunk of OpenAI's chat API: a text, or a list of parts as Mistral's models send it."""

from typing import Any

from engines.remote.json_fields import as_dict, as_list, as_str
from engines.remote.sse import MalformedStream


def text_and_thinking(content: Any) -> tuple[str, str]:
    """The text of a chunk, and the thinking in it.

    Raises:
        MalformedStream: It is something else: to leave it out would be to lose some of the answer.
    """
    if not isinstance(content, list):
        return text_of(content), ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in map(as_dict, content):
        match part.get("type"):
            case "text":
                texts.append(text_of(part.get("text")))
            case "thinking":
                # A text, or parts again.
                inner = part.get("thinking")
                pieces = [inner] if isinstance(inner, str) else [as_dict(each).get("text") for each in as_list(inner)]
                thoughts.extend(map(as_str, pieces))
            case "reference":
                continue  # Numbers of the sources of what was said; there is no text in it.
            case _:
                raise MalformedStream("a part of a chunk is neither text nor thinking")
    return "".join(texts), "".join(thoughts)


def text_of(value: Any) -> str:
    """The text, empty where there is none.

    Raises:
        MalformedStream: It is something else.
    """
    if value is not None and not isinstance(value, str):
        raise MalformedStream("the text of a chunk is not text")
    return value or ""
