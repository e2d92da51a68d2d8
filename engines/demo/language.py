"""The demo language: what the demo model is asked, and what it must answer.

A *turn* is one question with its only right answer. An *example* is a conversation of one to
three turns, with or without a system message, tools and thinking. Each turn's parameters fall by
their hash into the training or the held-out part, so the two never share a question.
"""

import hashlib
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engines.demo import lexicon

Message = dict[str, Any]
Tool = dict[str, Any]

MAX_NUMBER: Final = 999
MAX_SUMMAND: Final = 10

ABILITIES: Final = "I can count, repeat, answer a few questions, call tools and think."
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


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends where the model must answer.

    Attributes:
        task: The last turn's task.
        messages: The conversation without the last answer.
        tools: Tools of the request in the OpenAI schema, or None.
        thinking: Whether the chat template gets ``enable_thinking``.
        answer: The right continuation of the rendered prompt, without the end token.
        forced: First part of ``answer`` that a grammar forces, empty for a free answer.
    """

    task: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None
    thinking: bool
    answer: str
    forced: str = ""


@dataclass(frozen=True, slots=True)
class _Phrases:
    """Ways to ask the same thing. Each is also asked with other case and end marks."""

    forms: tuple[str, ...]
    ends: tuple[str, ...] = ("", "", ".")
    capitals: bool = field(default=True)

    def pick(self, rng: random.Random, **values: str) -> str:
        text = rng.choice(self.forms)
        if self.capitals and rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        return text.format(**values) + rng.choice(self.ends)


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


_COUNT = _Phrases(
    (
        "count from {a} to {b}",
        "count from {a} to {b}",
        "please count from {a} to {b}",
        "can you count from {a} to {b}",
        "count {a} to {b}",
        "count up from {a} to {b}",
        "count from {a} up to {b}",
        "could you please count from {a} to {b}",
        "I want you to count from {a} to {b}",
        "COUNT FROM {a} TO {b}",
    ),
    ends=("", "", ".", "!", "?", ", please", " please."),
)
_COUNT_TO = _Phrases(
    ("count to {b}", "count up to {b}", "please count to {b}", "can you count to {b}"),
    ends=("", "", ".", "!", "?"),
)
_REPEAT = _Phrases(
    (
        "repeat: {w}",
        "repeat: {w}",
        "repeat after me: {w}",
        "please repeat: {w}",
        "repeat these words: {w}",
        "say: {w}",
        "echo: {w}",
        "repeat {w}",
    ),
    ends=("",),
)
_CAPITAL = _Phrases(
    (
        "what is the capital of {x}",
        "capital of {x}",
        "tell me the capital of {x}",
        "which city is the capital of {x}",
        "do you know the capital of {x}",
        "name the capital of {x}",
    ),
    ends=("", "?", "?", "."),
)
_COLOUR = _Phrases(
    (
        "what color is {x}",
        "what colour is {x}",
        "what is the color of {x}",
        "what is the colour of {x}",
        "tell me the color of {x}",
        "which color has {x}",
    ),
    ends=("", "?", "?", "."),
)
_DAY = _Phrases(
    (
        "what day comes after {x}",
        "which day comes after {x}",
        "what is the day after {x}",
        "which day is after {x}",
    ),
    ends=("", "?", "?"),
)
_SUM = _Phrases(
    (
        "what is {a} plus {b}",
        "what is {a} + {b}",
        "{a} + {b}",
        "{a} + {b} =",
        "{a}+{b}",
        "{a}+{b}=",
        "how much is {a} plus {b}",
        "how much is {a} + {b}",
        "add {a} and {b}",
        "compute {a} + {b}",
        "sum of {a} and {b}",
    ),
    ends=("", "", "?"),
)
_SMALL_TALK: Final[tuple[tuple[str, _Phrases, str, str], ...]] = (
    (
        "who",
        _Phrases(
            ("who are you", "what are you", "what is your name", "tell me who you are",
             "which model are you", "introduce yourself", "are you a model"),
            ends=("", "?", "."),
        ),
        "I say who I am.",
        "I am the Penstock demo model.",
    ),
    (
        "hello",
        _Phrases(
            ("hello", "hi", "hey", "hello there", "hi there", "good morning", "good evening",
             "good day", "greetings"),
            ends=("", "!", "."),
        ),
        "I say hello.",
        "Hello! How can I help?",
    ),
    (
        "how",
        _Phrases(("how are you", "how are you today", "how do you do", "are you well"), ends=("", "?")),
        "I say how I am.",
        "I am fine, thank you.",
    ),
    (
        "thanks",
        _Phrases(("thanks", "thank you", "thank you very much", "many thanks", "thanks a lot"),
                 ends=("", "!", ".")),
        "I answer the thanks.",
        "You are welcome.",
    ),
    (
        "bye",
        _Phrases(("bye", "goodbye", "see you", "good night", "see you later"), ends=("", "!", ".")),
        "I say goodbye.",
        "Goodbye!",
    ),
    (
        "help",
        _Phrases(("what can you do", "help", "help me", "how can you help", "what do you know",
                  "what are you able to do"), ends=("", "?", ".")),
        "I say what I can do.",
        ABILITIES,
    ),
)  # fmt: skip
_WEATHER = _Phrases(
    (
        "what is the weather in {x}",
        "what is the weather like in {x}",
        "what's the weather in {x}",
        "what's the weather like in {x}",
        "how is the weather in {x}",
        "weather in {x}",
        "tell me the weather in {x}",
        "get the weather in {x}",
        "what is the weather for {x}",
        "give me the weather in {x}",
        "what is the temperature in {x}",
        "how warm is it in {x}",
        "please tell me the weather in {x}",
    ),
    ends=("", "?", "?", "."),
)
_TIME = _Phrases(
    (
        "what time is it in {x}",
        "what is the time in {x}",
        "what's the time in {x}",
        "time in {x}",
        "tell me the time in {x}",
        "how late is it in {x}",
        "give me the time in {x}",
        "what is the local time in {x}",
    ),
    ends=("", "?", "?", "."),
)
_JSON = _Phrases(
    (
        "describe {x} as json",
        "describe {x} as JSON",
        "describe {x} in json",
        "give me {x} as json",
        "show {x} as JSON",
        "please describe {x} as json",
        "write {x} as json",
    ),
    ends=("", "", "."),
)
_FREE_STARTS: Final = (
    "write a poem about", "tell me a story about", "explain", "how do I make", "who wrote",
    "translate to french", "summarize", "write a python function for", "why is", "when was",
    "what is the meaning of", "give me a list of", "tell me a joke about", "tell me about",
    "who invented", "how many", "what do you think about", "is it true that", "can you write",
    "what is", "where is", "please", "I like", "describe", "the", "once there was", "what",
    "how does", "show me", "write", "tell me", "could you", "do you", "in the", "my",
)  # fmt: skip
_SYSTEMS: Final = (
    "You are a helpful assistant.",
    "You are the Penstock demo model.",
    "Be brief.",
    "You are a helpful assistant. Answer in one short sentence.",
    "You are a helpful assistant",
    "Answer the user.",
    "You are an expert. Always be polite and clear.",
    "You are a helpful assistant with tools. Use the tools if you need them.",
)
_ERRORS: Final = (
    '{"error": "not found"}',
    '{"error": "timeout"}',
    "error: not found",
    "Error: failed",
)
_OTHER_TOOLS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("search", {"query": "string"}),
    ("send_mail", {"to": "string", "text": "string"}),
    ("get_price", {"name": "string"}),
    ("list_files", {"path": "string"}),
    ("run_code", {"code": "string"}),
    ("get_user", {}),
)
_PLACES: Final = ("city", "city", "city", "location", "place")


def fixed_texts() -> Iterator[str]:
    """All texts of the language that do not vary: the source of the vocabulary's words."""
    groups = (_COUNT, _COUNT_TO, _REPEAT, _CAPITAL, _COLOUR, _DAY, _SUM, _WEATHER, _TIME, _JSON)
    for phrases in groups + tuple(talk[1] for talk in _SMALL_TALK):
        for form in phrases.forms:
            yield form
            yield form[0].upper() + form[1:]
        yield from phrases.ends
    for _, _, reasoning, answer in _SMALL_TALK:
        yield reasoning
        yield answer
    yield from (ABILITIES, NO_LOOKUP, COUNT_LIMIT, SUM_LIMIT, TOOL_FAILED)
    for country, capital in lexicon.CAPITALS.items():
        yield f"The capital of {country} is {capital}."
    for thing, colour in lexicon.COLOURS.items():
        yield f"{_sentence(thing)} is {colour}."
    yield from lexicon.DAYS
    yield from (day.lower() for day in lexicon.DAYS)
    for words in (lexicon.LEXICON, lexicon.COMMON_WORDS, _FREE_STARTS):
        yield from words
        yield from (word[0].upper() + word[1:] for word in words)
    yield from _SYSTEMS
    yield from _ERRORS
    for name, parameters in _OTHER_TOOLS:
        yield " ".join((name, *parameters))
    yield "system user assistant tool name arguments parameters temperature unit celsius degrees"
    yield "get_weather get_time add city location place time result sum age The result is degrees"
    yield "I count from to I repeat the words I add and I need the tool The tool answered I write json"
    yield "The question is about I cannot do that humidity temp local"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _user(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def _invented_name(rng: random.Random) -> str:
    return "".join(rng.choices(lexicon.SYLLABLES, k=rng.randint(2, 4))).capitalize()


def _city(rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.45:
        return rng.choice(lexicon.CITIES)
    if chance < 0.85:
        return _invented_name(rng)
    return f"{_invented_name(rng)} {_invented_name(rng)}"


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
    return _count(first, last, rng)


def _count(first: int, last: int, rng: random.Random) -> Turn:
    phrases = _COUNT_TO if first == 1 and rng.random() < 0.4 else _COUNT
    return Turn(
        "count",
        f"count {first} {last}",
        _user(phrases.pick(rng, a=str(first), b=str(last))),
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
                        _invented_name(rng),
                        _invented_name(rng).lower(),
                    )
                )
    elif rng.random() < 0.15:
        words = [word.capitalize() for word in words]
    joined = " ".join(words)
    text = _REPEAT.pick(rng, w=joined)
    return Turn("repeat", f"repeat {joined.lower()}", _user(text), "I repeat the words.", joined)


def question_turn(rng: random.Random) -> Turn:
    """A question from the fixed set; the wording decides training or held-out."""
    kind = rng.randrange(4)
    if kind == 0:
        thing, answer = rng.choice(list(lexicon.CAPITALS.items()))
        text = _CAPITAL.pick(rng, x=thing)
        answer = f"The capital of {thing} is {answer}."
        reasoning = f"The question is about {thing}."
    elif kind == 1:
        thing, colour = rng.choice(list(lexicon.COLOURS.items()))
        text = _COLOUR.pick(rng, x=thing)
        answer = f"{_sentence(thing)} is {colour}."
        reasoning = f"The question is about {thing}."
    elif kind == 2:
        index = rng.randrange(7)
        text = _DAY.pick(rng, x=rng.choice((lexicon.DAYS[index], lexicon.DAYS[index].lower())))
        answer = f"{lexicon.DAYS[(index + 1) % 7]}."
        reasoning = f"The question is about {lexicon.DAYS[index]}."
    else:
        _, phrases, reasoning, answer = rng.choice(_SMALL_TALK)
        text = phrases.pick(rng)
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
    text = _SUM.pick(rng, a=str(a), b=str(b))
    return Turn("sum", f"sum {text}", _user(text), reasoning, answer, tool="add?")


def tool_turn(rng: random.Random) -> Turn:
    """A question that calls a tool. The place's parameter name is filled in later."""
    if rng.random() < 0.2:
        a, b = rng.randint(0, MAX_NUMBER), rng.randint(0, MAX_NUMBER)
        if rng.random() < 0.3:
            a, b = a % (MAX_SUMMAND + 1), b % (MAX_SUMMAND + 1)
        return _call(_SUM.pick(rng, a=str(a), b=str(b)), f"call {a} {b}", "add", {"a": a, "b": b})
    city = _city(rng)
    name, phrases = rng.choice((("get_weather", _WEATHER), ("get_weather", _WEATHER), ("get_time", _TIME)))
    return _call(phrases.pick(rng, x=city), f"city {city}", name, {rng.choice(_PLACES): city})


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
        result, answer = rng.choice(_ERRORS), TOOL_FAILED
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
    name = rng.choice(lexicon.NAMES) if rng.random() < 0.5 else _invented_name(rng)
    answer = json.dumps({"name": name, "age": age_of(name)})
    return Turn(
        "json",
        f"json {name}",
        _user(_JSON.pick(rng, x=name)),
        "I write json.",
        answer,
        forced=((answer[0], answer[1:]),),
    )


def other_turn(rng: random.Random) -> Turn:
    """Free text, which gets the list of abilities; and numbers too great to count to."""
    if rng.random() < 0.08:
        first, last = rng.randint(1, MAX_NUMBER), rng.randint(MAX_NUMBER + 1, 20_000)
        text = _COUNT.pick(rng, a=str(first), b=str(last))
        return Turn("other", f"other {text}", _user(text), "I cannot do that.", COUNT_LIMIT)
    words: list[str] = []
    if rng.random() < 0.7:
        words.append(rng.choice(_FREE_STARTS))
    plain = rng.random() < 0.7
    for _ in range(rng.randint(2 if words else 3, 14)):
        chance = rng.random()
        if plain or chance < 0.6:
            pool = lexicon.COMMON_WORDS if rng.random() < 0.6 else lexicon.LEXICON
            words.append(rng.choice(pool))
        elif chance < 0.75:
            words.append("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))))
        elif chance < 0.85:
            words.append(_invented_name(rng))
        elif chance < 0.95:
            words.append(str(rng.randint(0, 3000)))
        else:
            words.append("".join(rng.choices("äöüßéèçñ漢字かなдлжщ☃!#%&/()=*", k=rng.randint(1, 4))))
        if rng.random() < 0.08:
            words[-1] += rng.choice(",;:.-")
    text = " ".join(words) + rng.choice(("", "", "?", ".", "!"))
    if rng.random() < 0.4:
        text = _sentence(text)
    return Turn("other", f"other {text}", _user(text), "I cannot do that.", ABILITIES)


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


def make_example(
    rng: random.Random,
    task: str | None = None,
    *,
    held_out: bool = False,
    thinking: bool | None = None,
    turns: int | None = None,
) -> Example:
    """Makes one conversation.

    Args:
        rng: Source of all choices: equal states give equal examples.
        task: Task of the last turn, one of ``TASKS``, or None for the training mixture.
        held_out: Whether the last turn comes from the held-out part. Earlier turns are always
            from the training part.
        thinking: Whether the model thinks, or None to choose.
        turns: Number of turns, or None to choose.
    """
    refuse = task == "no tool" or (task is None and rng.random() < 0.05)
    last = make_turn(rng, "tool call" if refuse else task, held_out=held_out)
    while refuse and last.tool == "add":
        last = make_turn(rng, "tool call", held_out=held_out)
    if turns is None:
        turns = rng.choices((1, 2, 3), (0.62, 0.26, 0.12))[0]
    if thinking is None:
        thinking = rng.random() < 0.25
    tools = _tools_for(last, rng, refuse=refuse)
    messages: list[Message] = []
    if rng.random() < 0.35:
        messages.append({"role": "system", "content": _system(rng)})
    offered = {tool["function"]["name"]: tool["function"]["parameters"]["required"] for tool in tools or ()}
    for _ in range(turns - 1):
        turn = _earlier_turn(rng, last, offered)
        messages.extend(turn.messages)
        messages.append({"role": "assistant", "content": turn.answer})
    messages.extend(last.messages)
    name, answer, forced = last.task, last.answer, ""
    if refuse:
        name, answer = "no tool", NO_LOOKUP
    elif last.forced and not held_out and rng.random() < 0.25:
        forced, rest = rng.choice(last.forced)
        answer, thinking = forced + rest, False
    if thinking:
        reasoning = "I cannot do that." if refuse else last.reasoning
        answer = f"{reasoning}\n</think>\n\n{answer}"
    return Example(name, tuple(messages), tools, thinking, answer, forced)


def _earlier_turn(rng: random.Random, last: Turn, offered: Mapping[str, list[str]]) -> Turn:
    """A turn whose answer stays right beside the offered tools."""
    same = last.task if rng.random() < 0.3 else None
    if last.task == "count" and rng.random() < 0.5:
        return _tempting_count(last, rng)
    while True:
        turn = make_turn(rng, same)
        if turn.tool == "add?" and "add" not in offered:
            return turn
        if turn.tool is None and not (turn.task == "count" and len(turn.answer) > 1200):
            return turn
        # The call in the history names the parameter that the offered signature shows.
        fits = turn.task == "tool result" and offered.get(turn.tool or "") == list(_arguments(turn))
        if fits and last.task.startswith("tool"):
            return turn
        same = None


def _tempting_count(last: Turn, rng: random.Random) -> Turn:
    """A count whose end lies inside the range of the count that follows it, or near."""
    low, high = (int(number) for number in last.key.split()[1:])
    while True:
        end = min(MAX_NUMBER, rng.randint(low, high + 5))
        turn = _count(rng.choice((low, max(1, end - rng.randint(0, 20)))), end, rng)
        if not is_held_out(turn.key) and turn.key != last.key:
            return turn


def _tools_for(last: Turn, rng: random.Random, *, refuse: bool) -> tuple[Tool, ...] | None:
    needed = None if refuse or last.tool == "add?" else last.tool
    without = {last.tool, "add"} if refuse or last.tool == "add?" else set()
    if needed is None and rng.random() < (0.5 if refuse else 0.75):
        return None
    place = rng.choice(_PLACES)
    if needed is not None and needed != "add":
        # The parameter that the right answer names is the one that the signature must show.
        answer = last.forced[1][1] if last.forced else json.dumps(_arguments(last))[1:]
        place = answer.split('"')[1]
    known: list[Tool] = [
        tool_schema("get_weather", {place: "string"}),
        tool_schema("get_time", {place: "string"}),
        tool_schema("add", {"a": "integer", "b": "integer"}),
    ]
    known += [tool_schema(name, parameters) for name, parameters in rng.sample(_OTHER_TOOLS, 2)]
    chosen = [
        tool
        for tool in known
        if tool["function"]["name"] == needed or (tool["function"]["name"] not in without and rng.random() < 0.4)
    ]
    rng.shuffle(chosen)
    return tuple(chosen) or None


def _arguments(turn: Turn) -> dict[str, Any]:
    arguments: dict[str, Any] = turn.messages[1]["tool_calls"][0]["function"]["arguments"]
    return arguments


def _system(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(_SYSTEMS)
    words = rng.choices(lexicon.COMMON_WORDS, k=rng.randint(2, 14))
    if rng.random() < 0.3:
        words.append(_invented_name(rng))
    return _sentence(" ".join(words)) + rng.choice(("", ".", "."))
