"""Tests of the demo language's examples: which tools they offer, and what they end with."""

import json
import random

import pytest

from engines.demo import language
from engines.demo.examples import make_example


@pytest.mark.parametrize("task", language.TASKS)
@pytest.mark.parametrize("held_out", [False, True])
def test_equal_seeds_give_equal_examples(task: str, held_out: bool) -> None:
    first, second = (make_example(random.Random(5), task, held_out=held_out) for _ in range(2))
    assert first == second
    assert first.task == task
    assert first.messages[-1]["role"] in ("user", "tool")


def test_a_called_tool_is_offered_with_the_parameters_that_the_call_names() -> None:
    for seed in range(200):
        example = make_example(random.Random(seed), "tool call", thinking=False)
        if example.forced:
            continue
        call = json.loads(example.answer.splitlines()[1])
        schemas = {tool["function"]["name"]: tool["function"] for tool in example.tools or ()}
        assert list(call["arguments"]) == schemas[call["name"]]["parameters"]["required"]


def test_a_missing_tool_is_not_offered() -> None:
    for seed in range(200):
        example = make_example(random.Random(seed), "no tool", thinking=False)
        assert example.answer == language.NO_LOOKUP
        offered = {tool["function"]["name"] for tool in example.tools or ()}
        wanted = "get_time" if " time " in f" {example.messages[-1]['content'].lower()} " else None
        assert "add" not in offered
        assert wanted not in offered


def test_a_direct_sum_is_never_asked_beside_the_tool_that_adds() -> None:
    for seed in range(300):
        example = make_example(random.Random(seed), "sum")
        assert "add" not in {tool["function"]["name"] for tool in example.tools or ()}


def test_a_thinking_answer_closes_its_think_block() -> None:
    for task in language.TASKS:
        example = make_example(random.Random(1), task, thinking=True, held_out=True)
        reasoning, closed, answer = example.answer.partition("\n</think>\n\n")
        assert reasoning and closed and answer
