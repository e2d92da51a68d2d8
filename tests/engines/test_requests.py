"""Requests: what is wrong is refused, by the name of the field."""

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from engines.attachments.attachment import Attachment
from engines.requests import GenerateRequest, Guided, Sampling

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "get_weather"}}
# What only a chat template knows may be whatever a Python caller gives.
ODD = {
    "role": "user",
    "content": [{"type": "text", "text": "a"}, {"type": "file", "file": {"file_data": "", "filename": "a"}}],
    "x": (1, {2}, b"\xff"),
}
URL = {"url": "data:image/png;base64,AAAA"}
CALLED = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "get_weather"}}]}


def places(error: ValidationError) -> list[tuple[Any, ...]]:
    return [tuple(part["loc"]) for part in error.errors()]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"temperature": -0.1}, ("temperature",)),
        ({"temperature": float("nan")}, ("temperature",)),
        ({"temperature": float("inf")}, ("temperature",)),
        ({"top_p": 0}, ("top_p",)),
        ({"max_tokens": 0}, ("max_tokens",)),
        ({"n": 0}, ("n",)),
        ({"n": 129}, ("n",)),
        ({"logprobs": 21}, ("logprobs",)),
        ({"stop": [""]}, ("stop", 0)),
        ({"stop": ["a"] * 65}, ("stop",)),
        ({"stop_token_ids": [-1]}, ("stop_token_ids", 0)),
        ({"logit_bias": {1: 101}}, ("logit_bias", 1)),
        ({"seed": 2**63}, ("seed",)),
        ({"temprature": 1}, ("temprature",)),
        ({"guided": {"regex": ""}}, ("guided", "regex")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_sampling_field_is_named(fields: dict[str, Any], place: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        Sampling(**fields)
    assert any(found[: len(place)] == place for found in places(caught.value))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "exactly one of messages, prompt, prompt_token_ids"),
        ({"prompt": "a", "messages": MESSAGES}, "exactly one of messages, prompt, prompt_token_ids"),
        ({"prompt": "a", "tools": [TOOL]}, "tools need messages"),
        ({"messages": MESSAGES, "continue_final_message": True}, "add_generation_prompt"),
        ({"messages": MESSAGES, "tool_choice": "required"}, "there are no tools"),
        (
            {"messages": MESSAGES, "tools": [TOOL], "tool_choice": {"function": {"name": "get_time"}}},
            "get_time.*get_weather",
        ),
        ({"prompt": "a", "priority": 101}, "priority"),
        ({"prompt_token_ids": []}, "prompt_token_ids"),
        ({"prompt_token_ids": [2**31]}, "prompt_token_ids"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, r"messages\.0\.role"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, r"messages\.0\.content"),
        ({"prompt": "a", "session": {"id": ""}}, r"session\.id"),
        ({"prompt": "a", "colour": "red"}, "colour"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_generate_request_says_what_is_wrong(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GenerateRequest(model="model", **fields)


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_tokens \(5\) is greater than max_tokens \(4\)"):
        Sampling(min_tokens=5, max_tokens=4)


@pytest.mark.parametrize("fields", [{}, {"regex": "a", "choice": ["a"]}])
def test_a_guide_is_exactly_one(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of json_schema, json_object, regex"):
        Guided(**fields)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"messages": MESSAGES}, "messages"),
        ({"messages": MESSAGES, "tools": [TOOL], "tool_choice": "required"}, "messages"),
        ({"messages": [ODD, CALLED]}, "messages"),
        ({"prompt": ""}, "prompt"),
        ({"prompt_token_ids": [1]}, "prompt_token_ids"),
    ],
)
def test_a_request_knows_its_kind_and_survives_pickling(fields: dict[str, Any], kind: str) -> None:
    request = GenerateRequest(model="model", **fields)
    assert request.kind == kind
    again = pickle.loads(pickle.dumps(request))
    assert again == request
    assert again.model_dump(exclude_unset=True) == request.model_dump(exclude_unset=True)
    assert again.model_fields_set == request.model_fields_set


def test_keys_that_only_a_chat_template_knows_are_kept() -> None:
    request = GenerateRequest(model="model", messages=[{"role": "user", "content": "a", "mood": "blue"}])
    assert request.messages is not None
    assert request.messages[0].for_template() == {"role": "user", "content": "a", "mood": "blue"}


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"type": "image_url", "image_url": URL, "uuid": "x"}, ("uuid",)),
        ({"type": "image_url", "image_url": {**URL, "uuid": "x"}}, ("image_url", "uuid")),
        ({"type": "image_url", "image_url": {**URL, "detail": "huge"}}, ("image_url", "detail")),
        ({"type": "image_url", "image_url": URL["url"]}, ("image_url",)),
        ({"type": "image_url", "uuid": "x"}, ("image_url",)),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "flac"}}, ("input_audio", "format")),
        ({"type": "file", "file": {"file_id": "x", "file_data": ""}}, ("file", "file_id")),
        ({"type": "text", "text": "a", "uuid": "x"}, ("uuid",)),
        ({"type": "video_url", "video_url": URL}, ()),
        ({"type": "audio_url", "audio_url": URL}, ()),
        ({"type": "image_pil", "image_pil": None, "uuid": "x"}, ()),
        ({"type": ["text"]}, ()),
        ({"image_url": URL}, ()),
    ],
)
def test_a_part_has_the_keys_of_its_type_and_no_others(part: dict[str, Any], where: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        GenerateRequest.model_validate({"model": "model", "messages": [{"role": "user", "content": [part]}]})
    # The place in the list, what pydantic calls the member of the union, and where in the part.
    assert where in [place[6:] for place in places(refused.value) if len(place) > 4]


def test_attachments_are_as_many_as_parts() -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}]
    one = Attachment("image/png", b"1")
    assert GenerateRequest(model="model", messages=messages, attachments=[one]).attachments == [one]
    with pytest.raises(ValidationError, match="attachments has 2, and messages 1"):
        GenerateRequest(model="model", messages=messages, attachments=[one, one])
    with pytest.raises(ValidationError, match="attachments"):
        GenerateRequest(model="model", prompt="a", attachments=[one])


def test_other_attachments_make_another_request_of_it() -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}]
    one, same, other = (
        GenerateRequest(model="model", messages=messages, attachments=[Attachment("image/png", data)])
        for data in (b"1", b"1", b"2")
    )
    assert one == same != other
    assert one.model_dump_json() == same.model_dump_json() != other.model_dump_json()
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one and copy.attachments[0].stored is None
