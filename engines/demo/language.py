"""The demo language: what the demo model is asked, and what it must answer.

A *turn* is one question with its only right answer. Each turn's parameters fall by their hash
into the training or the held-out part, so the two never share a question.
"""

import hashlib
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engines.demo import lexicon, phrases

Message = dict[str, Any]
Tool = dict[str, Any]

MAX_NUMBER: Final = 999
MAX_SUMMAND: Final = 10

NO_LOOKUP: Final = "I cannot look that up."
COUNT_LIMIT: Final = "I can count from 1 to 999."
SUM_LIMIT: Final = "I can add numbers up to 10."
TOOL_FAILED: Final = "The tool failed."


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its right answer.

    Attributes:
        task: Name of the task, the unit of the accuracy table.
        key: The parameters that choose between training and held-out.
        messages: The user message, or for a tool's result the whole exchange up to it.
        reasoning: The text inside the think block, when thinking is on.
        answer: The right answer, without the think block.
        tool: Name of the tool that the answer calls, or whose result it reads.
        forced: Other answers to the same question, for when a grammar leaves no choice, as
            pairs (part that the grammar forces, the model's continuation).
    """

    task: str
    key: str
    messages: tuple[Message, ...]
    reasoning: str
    answer: str
    tool: str | None = None
    forced: tuple[tuple[str, str], ...] = ()


def is_held_out(key: str) -> bool:
    """Whether the parameters belong to the held-out part, about one in eight."""
    return hashlib.sha256(key.encode()).digest()[0] < 32


def counting(first: int, last: int) -> str:
    """The answer to a count: the numbers with one space between."""
    return " ".join(str(number) for number in range(first, last + 1))


def age_of(name: str) -> int:
    """The age in a description: A is 21, B is 22, and so on to Z, 46."""
    return 21 + string.ascii_uppercase.index(name[0])


def tool_call(name: str, arguments: Mapping[str, object]) -> str:
    """A tool call as the model writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def tool_schema(name: str, parameters: Mapping[str, str]) -> Tool:
    """A tool in the OpenAI schema.

    Args:
        name: The function's name.
        parameters: JSON type of each parameter, all of them required.
    """
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def fixed_texts() -> Iterator[str]:
    """All texts of the language that do not vary: the source of the vocabulary's words."""
    groups = (
        phrases.COUNT,
        phrases.COUNT_TO,
        phrases.REPEAT,
        phrases.CAPITAL,
        phrases.COLOUR,
        phrases.DAY,
        phrases.SUM,
        phrases.WEATHER,
        phrases.TIME,
        phrases.JSON,
    )
    for ways in groups + tuple(talk[1] for talk in phrases.SMALL_TALK):
        for form in ways.forms:
            yield form
            yield form[0].upper() + form[1:]
        yield from ways.ends
    for _, _, reasoning, answer in phrases.SMALL_TALK:
        yield reasoning
        yield answer
    yield from (phrases.ABILITIES, NO_LOOKUP, COUNT_LIMIT, SUM_LIMIT, TOOL_FAILED)
    for country, capital in lexicon.CAPITALS.items():
        yield f"The capital of {country} is {capital}."
    for thing, colour in lexicon.COLOURS.items():
        yield f"{sentence(thing)} is {colour}."
    yield from lexicon.DAYS
    yield from (day.lower() for day in lexicon.DAYS)
    for words in (lexicon.LEXICON, lexicon.COMMON_WORDS, phrases.FREE_STARTS):
        yield from words
        yield from (word[0].upper() + word[1:] for word in words)
    yield from phrases.SYSTEMS
    yield from phrases.TOOL_ERRORS
    for name, parameters in phrases.OTHER_TOOLS:
        yield " ".join((name, *parameters))
    yield "system user assistant tool name arguments parameters temperature unit celsius degrees"
    yield "get_weather get_time add city location place time result sum age The result is degrees"
    yield "I count from to I repeat the words I add and I need the tool The tool answered I write json"
    yield "The question is about I cannot do that humidity temp local"


def sentence(text: str) -> str:
    """The text as the beginning of a sentence: with a capital."""
    return text[0].upper() + text[1:]


def _user(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def invented_name(rng: random.Random) -> str:
    """A name that nobody has, of two to four syllables."""
    return "".join(rng.choices(lexicon.SYLLABLES, k=rng.randint(2, 4))).capitalize()


def _city(rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.45:
        return rng.choice(lexicon.CITIES)
    if chance < 0.85:
        return invented_name(rng)
    return f"{invented_name(rng)} {invented_name(rng)}"


def count_turn(rng: random.Random) -> Turn:
    """Counting up, of any length, with the short ranges more frequent."""
    chance = rng.random()
    if chance < 0.3:
        first = rng.randint(1, MAX_NUMBER)
        last = min(MAX_NUMBER, first + rng.randint(0, 12))
    elif chance < 0.45:
        first = rng.choice((1, rng.randint(1, 10)))
        last = rng.randint(first, rng.choice((30, MAX_NUMBER)))
    elif chance < 0.6:
        first = rng.randint(1, MAX_NUMBER)
        last = min(MAX_NUMBER, first + rng.randint(10, 70))
    elif chance < 0.75:
        # Ends that differ in one digit only are the easiest to take for each other.
        first = rng.randint(1, MAX_NUMBER)
        digits = list(f"{first:03}")
        digits[rng.randrange(3)] = rng.choice(string.digits)
        first, last = sorted((first, max(1, int("".join(digits)))))
    else:
        first, last = sorted((rng.randint(1, MAX_NUMBER), rng.randint(1, MAX_NUMBER)))
    return count_between(first, last, rng)


def count_between(first: int, last: int, rng: random.Random) -> Turn:
    """Counting from one number up to another."""
    ways = phrases.COUNT_TO if first == 1 and rng.random() < 0.4 else phrases.COUNT
    return Turn(
        "count",
        f"count {first} {last}",
        _user(ways.pick(rng, a=str(first), b=str(last))),
        f"I count from {first} to {last}.",
        counting(first, last),
    )


def repeat_turn(rng: random.Random) -> Turn:
    """Repeating one to twelve words, some of them numbers or invented words."""
    words: list[str] = rng.sample(lexicon.LEXICON, rng.randint(1, 12))
    if rng.random() < 0.2:
        for index in range(len(words)):
            if rng.random() < 0.3:
                words[index] = rng.choice(
                    (
                        str(rng.randint(0, MAX_NUMBER)),
                        invented_name(rng),
                        invented_name(rng).lower(),
                    )
                )
    elif rng.random() < 0.15:
        words = [word.capitalize() for word in words]
    joined = " ".join(words)
    text = phrases.REPEAT.pick(rng, w=joined)
    return Turn("repeat", f"repeat {joined.lower()}", _user(text), "I repeat the words.", joined)


def question_turn(rng: random.Random) -> Turn:
    """A question from the fixed set; the wording decides training or held-out."""
    kind = rng.randrange(4)
    if kind == 0:
        thing, answer = rng.choice(list(lexicon.CAPITALS.items()))
        text = phrases.CAPITAL.pick(rng, x=thing)
        answer = f"The capital of {thing} is {answer}."
        reasoning = f"The question is about {thing}."
    elif kind == 1:
        thing, colour = rng.choice(list(lexicon.COLOURS.items()))
        text = phrases.COLOUR.pick(rng, x=thing)
        answer = f"{sentence(thing)} is {colour}."
        reasoning = f"The question is about {thing}."
    elif kind == 2:
        index = rng.randrange(7)
        text = phrases.DAY.pick(rng, x=rng.choice((lexicon.DAYS[index], lexicon.DAYS[index].lower())))
        answer = f"{lexicon.DAYS[(index + 1) % 7]}."
        reasoning = f"The question is about {lexicon.DAYS[index]}."
    else:
        _, ways, reasoning, answer = rng.choice(phrases.SMALL_TALK)
        text = ways.pick(rng)
    # Wordings of small talk are so few that a held-out one would be a meaning never taught.
    key = f"question {text}" if kind < 3 else "always training"
    return Turn("question", key, _user(text), reasoning, answer)


def sum_turn(rng: random.Random) -> Turn:
    """A small sum; the wording and the numbers decide training or held-out."""
    a, b = rng.randint(0, MAX_SUMMAND), rng.randint(0, MAX_SUMMAND)
    reasoning, answer = f"{a} and {b} more: " + counting(a, a + b), str(a + b)
    if rng.random() < 0.1:
        a, b = rng.sample((rng.randint(0, MAX_NUMBER), rng.randint(MAX_SUMMAND + 1, MAX_NUMBER)), 2)
        reasoning, answer = "I cannot do that.", SUM_LIMIT
    text = phrases.SUM.pick(rng, a=str(a), b=str(b))
    return Turn("sum", f"sum {text}", _user(text), reasoning, answer, tool="add?")


def tool_turn(rng: random.Random) -> Turn:
    """A question that calls a tool. The place's parameter name is filled in later."""
    if rng.random() < 0.2:
        a, b = rng.randint(0, MAX_NUMBER), rng.randint(0, MAX_NUMBER)
        if rng.random() < 0.3:
            a, b = a % (MAX_SUMMAND + 1), b % (MAX_SUMMAND + 1)
        return _call(phrases.SUM.pick(rng, a=str(a), b=str(b)), f"call {a} {b}", "add", {"a": a, "b": b})
    city = _city(rng)
    name, ways = rng.choice(
        (("get_weather", phrases.WEATHER), ("get_weather", phrases.WEATHER), ("get_time", phrases.TIME))
    )
    return _call(ways.pick(rng, x=city), f"city {city}", name, {rng.choice(phrases.PLACES): city})


def _call(text: str, key: str, name: str, arguments: Mapping[str, object]) -> Turn:
    dumped = json.dumps(arguments)
    # What vLLM's grammars leave open for tool_choice "required" and for a named function.
    forced = (
        ("[", f'{{"name": "{name}", "parameters": {dumped}}}]'),
        ("{", dumped[1:]),
    )
    return Turn(
        "tool call",
        key,
        _user(text),
        f"I need the tool {name}.",
        tool_call(name, arguments),
        name,
        forced,
    )


def tool_result_turn(rng: random.Random) -> Turn:
    """The exchange that ends with a tool's result."""
    call = tool_turn(rng)
    name = call.tool
    arguments = json.loads(call.forced[1][0] + call.forced[1][1])
    if name == "get_weather":
        value = str(rng.randint(-30, 45))
        if rng.random() < 0.2:
            value += f".{rng.randint(0, 9)}"
        city = next(iter(arguments.values()))
        result = rng.choice(
            (
                f'{{"temperature": {value}}}',
                f'{{"temperature": {value}}}',
                f'{{"temperature":{value}}}',
                f'{{"temperature": {value}, "unit": "celsius"}}',
                f'{{"city": "{city}", "temperature": {value}}}',
                f'{{"temperature": "{value}"}}',
                f'{{"temp": {value}}}',
                f"{value}",
                f"{value} degrees",
            )
        )
        answer = f"The temperature is {value} degrees."
    elif name == "get_time":
        value = f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
        result = rng.choice((f'{{"time": "{value}"}}', f'{{"time":"{value}"}}', value))
        answer = f"The time is {value}."
    else:
        value = str(rng.randint(0, 1998))
        key = rng.choice(("result", "sum"))
        result = rng.choice((f'{{"{key}": {value}}}', f'{{"{key}":{value}}}', value))
        answer = f"The sum is {value}."
    if rng.random() < 0.06:
        result, answer = rng.choice(phrases.TOOL_ERRORS), TOOL_FAILED
    function = {"name": name, "arguments": arguments}
    exchange: tuple[Message, ...] = (
        *call.messages,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": result},
    )
    return Turn("tool result", f"result {call.key} {result}", exchange, "The tool answered.", answer, name)


def json_turn(rng: random.Random) -> Turn:
    """A description as JSON, whose age follows from the first letter of the name."""
    name = rng.choice(lexicon.NAMES) if rng.random() < 0.5 else invented_name(rng)
    answer = json.dumps({"name": name, "age": age_of(name)})
    return Turn(
        "json",
        f"json {name}",
        _user(phrases.JSON.pick(rng, x=name)),
        "I write json.",
        answer,
        forced=((answer[0], answer[1:]),),
    )


def other_turn(rng: random.Random) -> Turn:
    """Free text, which gets the list of abilities; and numbers too great to count to."""
    if rng.random() < 0.08:
        first, last = rng.randint(1, MAX_NUMBER), rng.randint(MAX_NUMBER + 1, 20_000)
        text = phrases.COUNT.pick(rng, a=str(first), b=str(last))
        return Turn("other", f"other {text}", _user(text), "I cannot do that.", COUNT_LIMIT)
    words: list[str] = []
    if rng.random() < 0.7:
        words.append(rng.choice(phrases.FREE_STARTS))
    plain = rng.random() < 0.7
    for _ in range(rng.randint(2 if words else 3, 14)):
        chance = rng.random()
        if plain or chance < 0.6:
            pool = lexicon.COMMON_WORDS if rng.random() < 0.6 else lexicon.LEXICON
            words.append(rng.choice(pool))
        elif chance < 0.75:
            words.append("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))))
        elif chance < 0.85:
            words.append(invented_name(rng))
        elif chance < 0.95:
            words.append(str(rng.randint(0, 3000)))
        else:
            words.append("".join(rng.choices("äöüßéèçñ漢字かなдлжщ☃!#%&/()=*", k=rng.randint(1, 4))))
        if rng.random() < 0.08:
            words[-1] += rng.choice(",;:.-")
    text = " ".join(words) + rng.choice(("", "", "?", ".", "!"))
    if rng.random() < 0.4:
        text = sentence(text)
    return Turn("other", f"other {text}", _user(text), "I cannot do that.", phrases.ABILITIES)


_TURNS: Final[dict[str, Callable[[random.Random], Turn]]] = {
    "count": count_turn,
    "repeat": repeat_turn,
    "question": question_turn,
    "sum": sum_turn,
    "tool call": tool_turn,
    "tool result": tool_result_turn,
    "json": json_turn,
    "other": other_turn,
}
TASKS: Final[tuple[str, ...]] = (*_TURNS, "no tool")
_WEIGHTS: Final[dict[str, float]] = {
    "count": 0.42,
    "repeat": 0.12,
    "question": 0.07,
    "sum": 0.08,
    "tool call": 0.11,
    "tool result": 0.07,
    "json": 0.06,
    "other": 0.07,
}


def make_turn(rng: random.Random, task: str | None = None, *, held_out: bool = False) -> Turn:
    """Makes one turn from the wanted part of the language.

    Args:
        rng: Source of all choices.
        task: One of ``TASKS`` except "no tool", or None for the training mixture.
        held_out: Whether the turn comes from the held-out part.
    """
    if task is None:
        task = rng.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0]
    while True:
        turn = _TURNS[task](rng)
        if is_held_out(turn.key) == held_out or (held_out and turn.key == "always training"):
            return turn
