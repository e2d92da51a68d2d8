"""The phrases of the demo language: the ways to ask each question, and the other texts that are drawn from a list."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ABILITIES: Final = "I can count, repeat, answer a few questions, call tools and think."


@dataclass(frozen=True, slots=True)
class Phrases:
    """Ways to ask the same thing. Each is also asked with other case and end marks."""

    forms: tuple[str, ...]
    ends: tuple[str, ...] = ("", "", ".")
    capitals: bool = field(default=True)

    def pick(self, rng: random.Random, **values: str) -> str:
        """One of the ways, with these values in it."""
        text = rng.choice(self.forms)
        if self.capitals and rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        return text.format(**values) + rng.choice(self.ends)


COUNT = Phrases(
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
COUNT_TO = Phrases(
    ("count to {b}", "count up to {b}", "please count to {b}", "can you count to {b}"),
    ends=("", "", ".", "!", "?"),
)
REPEAT = Phrases(
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
CAPITAL = Phrases(
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
COLOUR = Phrases(
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
DAY = Phrases(
    (
        "what day comes after {x}",
        "which day comes after {x}",
        "what is the day after {x}",
        "which day is after {x}",
    ),
    ends=("", "?", "?"),
)
SUM = Phrases(
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
SMALL_TALK: Final[tuple[tuple[str, Phrases, str, str], ...]] = (
    (
        "who",
        Phrases(
            ("who are you", "what are you", "what is your name", "tell me who you are",
             "which model are you", "introduce yourself", "are you a model"),
            ends=("", "?", "."),
        ),
        "I say who I am.",
        "I am the Penstock demo model.",
    ),
    (
        "hello",
        Phrases(
            ("hello", "hi", "hey", "hello there", "hi there", "good morning", "good evening",
             "good day", "greetings"),
            ends=("", "!", "."),
        ),
        "I say hello.",
        "Hello! How can I help?",
    ),
    (
        "how",
        Phrases(("how are you", "how are you today", "how do you do", "are you well"), ends=("", "?")),
        "I say how I am.",
        "I am fine, thank you.",
    ),
    (
        "thanks",
        Phrases(("thanks", "thank you", "thank you very much", "many thanks", "thanks a lot"),
                 ends=("", "!", ".")),
        "I answer the thanks.",
        "You are welcome.",
    ),
    (
        "bye",
        Phrases(("bye", "goodbye", "see you", "good night", "see you later"), ends=("", "!", ".")),
        "I say goodbye.",
        "Goodbye!",
    ),
    (
        "help",
        Phrases(("what can you do", "help", "help me", "how can you help", "what do you know",
                  "what are you able to do"), ends=("", "?", ".")),
        "I say what I can do.",
        ABILITIES,
    ),
)  # fmt: skip
WEATHER = Phrases(
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
TIME = Phrases(
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
JSON = Phrases(
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
FREE_STARTS: Final = (
    "write a poem about", "tell me a story about", "explain", "how do I make", "who wrote",
    "translate to french", "summarize", "write a python function for", "why is", "when was",
    "what is the meaning of", "give me a list of", "tell me a joke about", "tell me about",
    "who invented", "how many", "what do you think about", "is it true that", "can you write",
    "what is", "where is", "please", "I like", "describe", "the", "once there was", "what",
    "how does", "show me", "write", "tell me", "could you", "do you", "in the", "my",
)  # fmt: skip
SYSTEMS: Final = (
    "You are a helpful assistant.",
    "You are the Penstock demo model.",
    "Be brief.",
    "You are a helpful assistant. Answer in one short sentence.",
    "You are a helpful assistant",
    "Answer the user.",
    "You are an expert. Always be polite and clear.",
    "You are a helpful assistant with tools. Use the tools if you need them.",
)
TOOL_ERRORS: Final = (
    '{"error": "not found"}',
    '{"error": "timeout"}',
    "error: not found",
    "Error: failed",
)
OTHER_TOOLS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("search", {"query": "string"}),
    ("send_mail", {"to": "string", "text": "string"}),
    ("get_price", {"name": "string"}),
    ("list_files", {"path": "string"}),
    ("run_code", {"code": "string"}),
    ("get_user", {}),
)
PLACES: Final = ("city", "city", "city", "location", "place")
