"""Examples of the demo language: conversations that end where the model must answer.

An *example* is a conversation of one to three turns, with or without a system message, tools and thinking.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.demo import lexicon, phrases
from engines.demo.language import (
    MAX_NUMBER,
    NO_LOOKUP,
    Message,
    Tool,
    Turn,
    count_between,
    invented_name,
    is_held_out,
    make_turn,
    sentence,
    tool_schema,
)


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
        turn = count_between(rng.choice((low, max(1, end - rng.randint(0, 20)))), end, rng)
        if not is_held_out(turn.key) and turn.key != last.key:
            return turn


def _tools_for(last: Turn, rng: random.Random, *, refuse: bool) -> tuple[Tool, ...] | None:
    needed = None if refuse or last.tool == "add?" else last.tool
    without = {last.tool, "add"} if refuse or last.tool == "add?" else set()
    if needed is None and rng.random() < (0.5 if refuse else 0.75):
        return None
    place = rng.choice(phrases.PLACES)
    if needed is not None and needed != "add":
        # The parameter that the right answer names is the one that the signature must show.
        answer = last.forced[1][1] if last.forced else json.dumps(_arguments(last))[1:]
        place = answer.split('"')[1]
    known: list[Tool] = [
        tool_schema("get_weather", {place: "string"}),
        tool_schema("get_time", {place: "string"}),
        tool_schema("add", {"a": "integer", "b": "integer"}),
    ]
    known += [tool_schema(name, parameters) for name, parameters in rng.sample(phrases.OTHER_TOOLS, 2)]
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
        return rng.choice(phrases.SYSTEMS)
    words = rng.choices(lexicon.COMMON_WORDS, k=rng.randint(2, 14))
    if rng.random() < 0.3:
        words.append(invented_name(rng))
    return sentence(" ".join(words)) + rng.choice(("", ".", "."))
