"""What the simulated model says: a function of the prompt's token ids, the same on every instance.

- "count from 3 to 7" is answered with "3 4 5 6 7", so that a lost or repeated token shows in the answer.
- "weather in Paris and Rome", with tools, is answered with a call of the weather tool for each place.
- What a tool said is answered with "The tool says: ...".
- A prompt that begins a reasoning gets some of it before the answer.
- A guided request gets the smallest value that its guide allows.
- Everything else is answered with some words, drawn by a generator that the prompt seeds, and the LoRA adapter.

Temperature 0, and none given, are greedy. Otherwise the request's seed and the choice's index seed the words as well,
or the request's id where there is no seed: chance, but the same chance on every instance. `top_p`, `top_k`, `min_p` and
the penalties make no difference.
"""

import hashlib
import json
import random
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from pydantic import JsonValue

from engines.errors import InvalidRequest, Unsupported
from engines.messages import NamedToolChoice, Tool
from engines.requests import GenerateRequest, Guided, Sampling
from engines.simulated.prompt import last_turn
from engines.simulated.schema import SchemaWriter
from engines.simulated.tokenizer import SPOKEN, Special, decode, encode

_COUNT = re.compile(r"\bcount\s+(?:up\s+|down\s+)?(?:from\s+)?(-?\d+)\s+(?:up\s+|down\s+)?to\s+(-?\d+)", re.IGNORECASE)
_WEATHER = re.compile(r"\bweather\s+(?:like\s+)?(?:in|for)\s+([^.,;?!\n]+)", re.IGNORECASE)
_CHUNK = 64


class Writer:
    """One choice's token ids, by position. Written ahead in pieces, because that is cheaper than one by one."""

    __slots__ = ("_ids", "_rest")

    def __init__(self, token_ids: Iterator[int]) -> None:
        self._rest = token_ids
        self._ids: list[int] = []

    def token(self, position: int) -> int:
        """The id at a position; END after the last."""
        while position >= len(self._ids):
            piece = list(islice(self._rest, _CHUNK))
            self._ids += piece or [Special.END] * _CHUNK
        return self._ids[position]


def writer(request: GenerateRequest, prompt: Sequence[int], index: int, request_id: str) -> Writer:
    """The writer of one choice.

    Raises:
        InvalidRequest: The guide or a tool's schema is wrong.
        Unsupported: The guide cannot be honoured.
    """
    seed = _seed(prompt, request.sampling, index, request_id, request.adapter or "")
    body, fixed = _body(request, prompt, _words(seed))
    if prompt[-1] == Special.THINK:
        body = chain(_reasoning(seed), body)
    return Writer(body if fixed else _prolonged(body, request.sampling, seed))


def _body(request: GenerateRequest, prompt: Sequence[int], words: random.Random) -> tuple[Iterator[int], bool]:
    """The answer's ids, and whether nothing may be added to them."""
    speaker, text = last_turn(prompt)
    calls = _tool_calls(request, speaker, text, words)
    guided = request.sampling.guided
    if guided is not None:
        if calls:
            raise InvalidRequest("Guided output and a forced tool call exclude each other.", param="tool_choice")
        return iter(encode(_guided(guided, words))), True
    if calls:
        return chain.from_iterable(_call_ids(name, arguments) for name, arguments in calls), False
    if speaker == Special.TOOL:
        return iter(encode(f"The tool says: {text}")), False
    counting = _COUNT.search(text)
    if counting is not None:
        return _count(int(counting[1]), int(counting[2])), False
    return iter(words.choices(SPOKEN, k=words.randint(16, 64))), False


def _prolonged(body: Iterator[int], sampling: Sampling, seed: int) -> Iterator[int]:
    """Goes on with words where an end is not allowed: before `min_tokens`, and ever with `ignore_eos`."""
    if not (sampling.ignore_eos or sampling.min_tokens):
        return body
    return chain(body, _endless(seed)) if sampling.ignore_eos else _at_least(body, sampling.min_tokens, seed)


def _at_least(body: Iterator[int], tokens: int, seed: int) -> Iterator[int]:
    written = 0
    for token_id in body:
        yield token_id
        written += 1
    yield from islice(_endless(seed), max(0, tokens - written))


def _endless(seed: int) -> Iterator[int]:
    words = _words(~seed)
    while True:
        yield from words.choices(SPOKEN, k=_CHUNK)


def _reasoning(seed: int) -> Iterator[int]:
    words = _words(seed ^ 1)
    yield from words.choices(SPOKEN, k=words.randint(8, 24))
    yield Special.END_THINK


def _count(first: int, last: int) -> Iterator[int]:
    step = 1 if last >= first else -1
    for number in range(first, last + step, step):
        yield from encode(str(number) if number == first else f" {number}")


def _tool_calls(
    request: GenerateRequest, speaker: int | None, text: str, words: random.Random
) -> list[tuple[str, JsonValue]]:
    """The calls to make: names and arguments."""
    choice = request.tool_choice or "auto"
    if not request.tools or choice == "none":
        return []
    asked = _WEATHER.search(text)
    if choice == "auto" and (asked is None or speaker != Special.USER or request.sampling.guided is not None):
        return []
    tools = list(enumerate(request.tools))
    if isinstance(choice, NamedToolChoice):
        position, tool = next((at, tool) for at, tool in tools if tool.function.name == choice.function.name)
    else:
        position, tool = next((pair for pair in tools if "weather" in pair[1].function.name.lower()), tools[0])
    places = [] if asked is None else re.split(r"\s+and\s+", asked[1].strip())
    if not request.parallel_tool_calls:
        places = places[:1]
    return [(tool.function.name, _arguments(tool, position, place, words)) for place in places or [None]]


def _arguments(tool: Tool, position: int, place: str | None, words: random.Random) -> JsonValue:
    schema = tool.function.parameters
    if not schema:
        return {}
    param = f"tools[{position}].function.parameters"
    arguments = SchemaWriter(schema, param, _word(words)).write()
    properties = schema.get("properties")
    if place is not None and isinstance(arguments, dict) and isinstance(properties, dict):
        name = next((name for name, about in properties.items() if _is_free_text(about)), None)
        if name is not None:
            arguments[name] = place
    return arguments


def _is_free_text(schema: JsonValue) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string" and not schema.keys() & {"enum", "const"}


def _call_ids(name: str, arguments: JsonValue) -> list[int]:
    text = json.dumps(arguments)
    return [Special.TOOL_CALL, *encode(name), Special.ARGUMENTS, *encode(text), Special.END_TOOL_CALL]


def _guided(guided: Guided, words: random.Random) -> str:
    if guided.choice is not None:
        return words.choice(guided.choice)
    if guided.json_object is not None:
        return json.dumps({"answer": _word(words)})
    if guided.json_schema is not None:
        return json.dumps(SchemaWriter(guided.json_schema, "sampling.guided.json_schema", _word(words)).write())
    name = next(name for name in ("regex", "grammar", "structural_tag") if getattr(guided, name) is not None)
    raise Unsupported(f"This engine cannot be held to a {name}.", param=f"sampling.guided.{name}")


def _words(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - nothing here is a secret


def _word(words: random.Random) -> str:
    return decode((words.choice(SPOKEN),)).strip()


def call_prefix(prompt: Sequence[int], index: int) -> str:
    """What the ids of a choice's tool calls begin with: the same on every instance, so that a resumed call keeps it."""
    return f"call_{_digest(prompt).hexdigest()}_{index}_"


def _digest(prompt: Sequence[int]) -> "hashlib.blake2b":
    return hashlib.blake2b(struct.pack(f"<{len(prompt)}I", *prompt), digest_size=8)


def _seed(prompt: Sequence[int], sampling: Sampling, index: int, request_id: str, adapter: str) -> int:
    digest = _digest(prompt)
    digest.update(adapter.encode())
    if sampling.temperature:
        digest.update(request_id.encode() if sampling.seed is None else struct.pack("<Q", sampling.seed % 2**64))
        digest.update(struct.pack("<I", index))
    return int.from_bytes(digest.digest(), "little")
