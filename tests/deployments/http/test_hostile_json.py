"""Bodies and names made to confuse: other encodings, names of Python's insides, JSON inside of text."""

import json
from typing import Any

import pytest

from tests.deployments.http.conftest import HELLO, Serving

CHAT = "/v1/chat/completions"
GOOD = json.dumps({"model": "demo", "messages": HELLO}).encode()


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"\xef\xbb\xbf" + GOOD, "BOM"),
        (GOOD.decode().encode("utf-16"), "not UTF-8"),
        (GOOD.decode().encode("utf-32"), "not UTF-8"),
        (GOOD.replace(b"hello", b"\xc0\xaf"), "not UTF-8"),
        (GOOD + b"x", "Extra data"),
        (GOOD + GOOD, "Extra data"),
        (GOOD + b"\x00", "Extra data"),
        (b"/* */" + GOOD, "not valid JSON"),
        (GOOD[:-1] + b",}", "not valid JSON"),
        (GOOD.replace(b"hello", b"a\nb"), "control character"),
        (GOOD.replace(b"hello", b"\\x41"), "escape"),
        (b'{"a":"' + b"a" * 1_000_000, "Unterminated"),
        (b'{"a":' + b"\\" * 1_000_000, "not valid JSON"),
    ],
    ids=str.split("bom utf-16 utf-32 overlong junk two nul comment comma control escape open backslashes"),
)
async def test_what_is_nearly_json_is_refused(serving: Serving, sent: bytes, says: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post(CHAT, sent)
        assert answer.status == 400
        assert says in answer.json["error"]["message"]
        assert not served.engine.requests
        await served.still_serves()


async def test_white_space_costs_nothing_but_its_bytes(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        assert (await served.post(CHAT, b" " * 4_000_000 + GOOD + b"\n" * 4_000_000)).status == 200


INSIDES = [
    "__proto__",
    "constructor",
    "__class__",
    "__init__",
    "__dict__",
    "__reduce__",
    "__pydantic_extra__",
    "__pydantic_fields_set__",
    "model_config",
    "model_fields",
    "model_dump",
    "for_template",
    "",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("name", INSIDES, ids=lambda name: repr(name[:24]))
async def test_odd_names_are_unknown_fields_and_a_messages_own_business(serving: Serving, name: str) -> None:
    async with serving() as served:
        refused = await served.chat(**{name: {"a": 1}})
        assert (refused.status, refused.json["error"]["param"]) == (400, name[:80])
        assert len(refused.body) < 1500
        # A chat template may read any key of a message: it is kept, as data and nothing else.
        kept = await served.chat(messages=[{"role": "user", "content": "hello", name: {"a": 1}}])
        assert kept.json["choices"][0]["message"]["content"] == "hello"
        (request,) = served.engine.requests
        assert request.messages[0].for_template() == {"role": "user", "content": "hello", name: {"a": 1}}


@pytest.mark.parametrize("field", ["model", "session_id", "instance"])
async def test_huge_names_come_back_short(serving: Serving, field: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.chat(**{field: "\x1b" * 2_000_000})
        assert answer.status in (400, 404)
        assert answer.json["error"]["param"] == field
        assert len(answer.body) < 2000
        await served.still_serves()


async def test_made_up_models_are_no_time_series(serving: Serving) -> None:
    async with serving(["Hi"]) as served:
        for number in range(50):
            assert (await served.chat(model=f"made-up-{number}")).status == 404
            assert (await served.get(f"/v1/models/made-up-{number}")).status == 404
            assert (await served.get(f"/made-up-{number}")).status == 404
        assert "made-up" not in (await served.get("/metrics")).body.decode()


# A schema may be given as text, in which the guard of the body sees one string.
SCHEMAS: list[tuple[str, str]] = [
    ("{", "it is not valid JSON"),
    ("[]", "it must be a JSON object"),
    ('{"a": NaN}', "NaN is not a JSON number"),
    ('{"a": 1e999}', "too large"),
    ('{"a": 1, "a": 2}', "twice"),
    ('{"enum": ["\\ud800"]}', "surrogate"),
    ('{"a":' * 150 + "1" + "}" * 150, "levels deep"),
    ('{"a":' * 50_000 + "1" + "}" * 50_000, "it holds more than"),
    ('{"a": ' + "9" * 4000 + "}", "too many digits"),
    ('{"a": [' + ",".join(["[]"] * 300_000) + "]}", "it holds more than 25000 JSON lists and objects"),
    ('{"a": "' + "x" * 2**20 + '"}', "longer than 1048576 characters"),
]


@pytest.mark.parametrize(("text", "says"), SCHEMAS, ids=[text[:24] for text, _ in SCHEMAS])
@pytest.mark.parametrize("param", ["structured_outputs.json", "guided_json"])
async def test_a_schema_in_text_is_held_to_the_same_limits(serving: Serving, text: str, says: str, param: str) -> None:
    given: dict[str, Any] = {"guided_json": text} if param == "guided_json" else {"structured_outputs": {"json": text}}
    async with serving(["Hi"]) as served:
        answer = await served.chat(**given)
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
        assert says in answer.json["error"]["message"]
        assert not served.engine.requests
        await served.still_serves()


def calling(*arguments: str) -> list[dict[str, Any]]:
    """A conversation in which the model has called tools."""
    calls = [
        {"id": str(place), "type": "function", "function": {"name": "f", "arguments": text}}
        for place, text in enumerate(arguments)
    ]
    return [*HELLO, {"role": "assistant", "content": None, "tool_calls": calls}]


LISTS = '{"a": [' + ",".join(["[]"] * 10_000) + "]}"
"""Under the limit by itself."""


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (['{"a": [' + ",".join(["[]"] * 500_000) + "]}"], 0),
        (['{"a": [' + ",".join(["1"] * 500_000) + "]}"], 0),
        (["{}", '{"a": [' + ",".join(['""'] * 500_000) + "]}"], 1),
        ([LISTS] * 3, 2),
        # What is broken in one hides nothing in the next.
        (['"', LISTS, LISTS, LISTS], 3),
    ],
    ids=["lists", "numbers", "texts", "together", "broken"],
)
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
async def test_arguments_of_calls_are_held_to_the_same_limits(
    serving: Serving, arguments: list[str], place: int, path: str
) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post(path, {"model": "demo", "messages": calling(*arguments)})
        param = f"messages[1].tool_calls[{place}].function.arguments"
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
        assert "it holds more than" in answer.json["error"]["message"]
        assert not served.engine.requests
        await served.still_serves()


async def test_arguments_that_hold_much_text_are_taken(serving: Serving) -> None:
    written = json.dumps({"path": "a.c", "text": 'f(x, [1, 2], {3});\n"' * 100_000})
    async with serving(["Hi"]) as served:
        assert (await served.chat(messages=calling(written, LISTS))).status == 200
