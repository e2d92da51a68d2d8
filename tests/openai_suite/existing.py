"""Ids of what there is, for tests that were written with ids of what there is not. Imported by the tests themselves."""

import os
import re
import time
from pathlib import Path

from openai import OpenAI

_MADE_UP = {
    re.compile(r'"completion_id"'): "existing.chat_completion()",
    re.compile(r'"(response_id|resp_[0-9a-z]+)"'): "existing.response()",
    re.compile(r'"conv_[0-9a-z]+"'): "existing.conversation()",
    re.compile(r'"msg_[0-9a-z]+"'): "existing.item()",
}
_of_items: list[str] = []
"""Conversations whose items were made, and which are asked for next."""


def put_into(file: Path) -> None:
    """Has a file of tests ask for what there is."""
    text = file.read_text()
    for made_up, made in _MADE_UP.items():
        text = made_up.sub(made, text)
    file.write_text(text.replace("\nimport os\n", "\nimport os\nimport existing\n", 1))


def chat_completion() -> str:
    """A new one."""
    messages = [{"role": "user", "content": "hello there"}]
    return _client().chat.completions.create(model="demo", messages=messages, store=True).id  # type: ignore[arg-type]


def response() -> str:
    """A new one that has ended, of the kind that can be cancelled."""
    responses = _client().responses
    made = responses.create(model="demo", input="hello there", background=True)
    deadline_s = time.monotonic() + 60
    while made.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline_s, made
        time.sleep(0.01)
        made = responses.retrieve(made.id)
    return made.id


def conversation() -> str:
    """That of the item before it; else a new one."""
    return _of_items.pop() if _of_items else _client().conversations.create().id


def item() -> str:
    """A new one, in a new conversation."""
    conversations = _client().conversations
    made = conversations.create(items=[{"type": "message", "role": "user", "content": "hello there"}])
    _of_items.append(made.id)
    return next(iter(conversations.items.list(made.id))).id  # type: ignore[return-value]


def _client() -> OpenAI:
    return OpenAI(base_url=os.environ["TEST_API_BASE_URL"], api_key="any", max_retries=0)
