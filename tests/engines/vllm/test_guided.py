"""Output held to a schema, regex, choice or grammar; and what cannot be compiled is refused, not fatal."""

import json
import re
from typing import Any

import pytest

from engines.errors import InvalidRequest
from engines.vllm.engine import VllmEngine
from tests.engines.vllm.asking import answer, ask, chat, still_serves

pytestmark = pytest.mark.asyncio(loop_scope="session")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def guided(text: str, **constraint: Any) -> Any:
    return chat(text, sampling={"guided": constraint, "max_tokens": 200})


async def test_schema(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, guided("describe Anna as json", json_schema=PERSON))
    assert json.loads(made.text).keys() == {"name", "age"}


async def test_regex(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, guided("hello", regex=r"[0-9]{3} [0-9]{3}"))
    assert re.fullmatch(r"[0-9]{3} [0-9]{3}", made.text)


async def test_choice(vllm_engine: VllmEngine) -> None:
    assert (await answer(vllm_engine, guided("hello", choice=["seven", "nine"]))).text in ("seven", "nine")


async def test_grammar(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, guided("hello", grammar='root ::= "ab" ("c" | "d")'))
    assert made.text in ("abc", "abd")


async def test_json_object(vllm_engine: VllmEngine) -> None:
    made = await answer(vllm_engine, guided("describe Anna as json", json_object=True))
    assert made.reason == "length" or isinstance(json.loads(made.text), dict)


async def test_grammar_holds_after_the_reasoning(vllm_engine: VllmEngine) -> None:
    request = chat(
        "what is the capital of France",
        sampling={"guided": {"choice": ["Paris", "Rome"]}, "max_tokens": 200},
        chat_template_kwargs={"enable_thinking": True},
    )
    made = await answer(vllm_engine, request)
    assert made.text in ("Paris", "Rome")
    assert made.reasoning


@pytest.mark.parametrize(
    ("constraint", "value"),
    [
        ("json_schema", {"type": "nonsense"}),
        ("json_schema", {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}),
        ("json_schema", {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        ("regex", "("),
        ("regex", "[a"),
        ("regex", "a\x00b"),
        ("grammar", "root ::= nowhere"),
        ("grammar", "((("),
        ("structural_tag", "{"),
        ("structural_tag", "{}"),
    ],
)
async def test_what_cannot_be_compiled_is_refused(vllm_engine: VllmEngine, constraint: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await ask(vllm_engine, guided("hello", **{constraint: value}))
    assert refused.value.param == f"sampling.guided.{constraint}"
    assert ".cc" not in refused.value.message  # xgrammar names the lines of its own source
    await still_serves(vllm_engine)


@pytest.mark.parametrize(
    "regex",
    ["(((a{1,300}){1,300}){1,300}){1,300}", "(a|aa)+" * 200, "(.*a){30}" * 20],
)
async def test_catastrophic_regex_ends_nothing_but_its_request(vllm_engine: VllmEngine, regex: str) -> None:
    request = chat("hello", sampling={"guided": {"regex": regex}, "max_tokens": 5})
    try:
        await ask(vllm_engine, request)
    except InvalidRequest as refused:
        assert refused.param == "sampling.guided.regex"
    await still_serves(vllm_engine)
