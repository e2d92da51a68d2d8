"""Every field that OpenAI's client can send has been thought of: taken, or refused by name; and documented."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.chat import completion_update_params
from pydantic import BaseModel

from deployments.http.openai.chat_body import ChatBody, NoteBody
from deployments.http.openai.completion_body import CompletionBody
from deployments.http.openai.embeddings import EmbeddingBody
from deployments.http.server.hints import DispatchFields

PAGE = Path(__file__).parents[4] / "docs" / "compatibility.md"
GENERATION = "### Fields of chat completions and completions"
SECTIONS: dict[type[BaseModel], str] = {
    ChatBody: GENERATION,
    CompletionBody: GENERATION,
    EmbeddingBody: "### Fields of embeddings",
}
BODIES: list[tuple[type[BaseModel], Any]] = [
    (ChatBody, chat_create_params.CompletionCreateParamsBase),
    (ChatBody, chat_create_params.CompletionCreateParamsStreaming),
    (NoteBody, completion_update_params.CompletionUpdateParams),
    (CompletionBody, completion_create_params.CompletionCreateParamsBase),
    (CompletionBody, completion_create_params.CompletionCreateParamsStreaming),
    (EmbeddingBody, embedding_create_params.EmbeddingCreateParams),
]


def known(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields) | set(getattr(model, "UNSUPPORTED", ()))


def documented(heading: str) -> set[str]:
    """The fields in the first column of a section's table."""
    section = PAGE.read_text().partition(f"{heading}\n")[2].partition("\n#")[0]
    return {name for row in re.findall(r"^\|([^|]*)\|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(("ours", "theirs"), BODIES, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_every_field_of_the_client_is_known(ours: type[BaseModel], theirs: Any) -> None:
    assert set(theirs.__annotations__) <= known(ours)


@pytest.mark.parametrize("heading", dict.fromkeys(SECTIONS.values()))
def test_the_documentation_names_every_field_and_no_other(heading: str) -> None:
    fields = set().union(*(known(body) for body, section in SECTIONS.items() if section == heading))
    assert documented(heading) == fields


def test_our_own_fields_are_no_fields_of_theirs() -> None:
    theirs = {name for _, params in BODIES for name in params.__annotations__}
    assert not theirs & set(DispatchFields.model_fields)
