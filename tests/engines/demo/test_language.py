"""Tests of the demo language: its answers, and the split into training and held-out."""

import json
import random

import pytest

from engines.demo import language

ANSWERED = [task for task in language.TASKS if task != "no tool"]


@pytest.mark.parametrize("task", ANSWERED)
def test_training_and_held_out_turns_share_no_key(task: str) -> None:
    training = {language.make_turn(random.Random(seed), task).key for seed in range(300)}
    held_out = {language.make_turn(random.Random(seed), task, held_out=True).key for seed in range(300)}
    assert not (training & held_out) - {"always training"}


@pytest.mark.parametrize("task", language.TASKS)
@pytest.mark.parametrize("held_out", [False, True])
def test_equal_seeds_give_equal_examples(task: str, held_out: bool) -> None:
    first, second = (language.make_example(random.Random(5), task, held_out=held_out) for _ in range(2))
    assert first == second
    assert first.task == task
    assert first.messages[-1]["role"] in ("user", "tool")


def test_counting_is_separated_by_one_space() -> None:
    assert language.counting(3, 6) == "3 4 5 6"
    assert language.counting(7, 7) == "7"


def test_tool_call_holds_readable_json() -> None:
    text = language.tool_call("get_weather", {"city": "Oslo"})
    assert text == ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>')
    assert json.loads(text.splitlines()[1])["arguments"] == {"city": "Oslo"}


def test_a_called_tool_is_offered_with_the_parameters_that_the_call_names() -> None:
    for seed in range(200):
        example = language.make_example(random.Random(seed), "tool call", thinking=False)
        if example.forced:
            continue
        call = json.loads(example.answer.splitlines()[1])
        schemas = {tool["function"]["name"]: tool["function"] for tool in example.tools or ()}
        assert list(call["arguments"]) == schemas[call["name"]]["parameters"]["required"]


def test_a_missing_tool_is_not_offered() -> None:
    for seed in range(200):
        example = language.make_example(random.Random(seed), "no tool", thinking=False)
        assert example.answer == language.NO_LOOKUP
        offered = {tool["function"]["name"] for tool in example.tools or ()}
        wanted = "get_time" if " time " in f" {example.messages[-1]['content'].lower()} " else None
        assert "add" not in offered
        assert wanted not in offered


def test_a_direct_sum_is_never_asked_beside_the_tool_that_adds() -> None:
    for seed in range(300):
        example = language.make_example(random.Random(seed), "sum")
        assert "add" not in {tool["function"]["name"] for tool in example.tools or ()}


def test_a_thinking_answer_closes_its_think_block() -> None:
    for task in language.TASKS:
        example = language.make_example(random.Random(1), task, thinking=True, held_out=True)
        reasoning, closed, answer = example.answer.partition("\n</think>\n\n")
        assert reasoning and closed and answer


def test_ages_follow_the_alphabet() -> None:
    assert (language.age_of("Alice"), language.age_of("Bob"), language.age_of("Zoe")) == (
        21,
        22,
        46,
    )


def test_a_sum_beyond_the_limit_is_refused() -> None:
    turns = [language.make_turn(random.Random(seed), "sum") for seed in range(200)]
    assert any(turn.answer == language.SUM_LIMIT for turn in turns)
    assert all(turn.answer == language.SUM_LIMIT or 0 <= int(turn.answer) <= 2 * language.MAX_SUMMAND for turn in turns)
