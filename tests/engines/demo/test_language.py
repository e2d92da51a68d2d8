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


def test_counting_is_separated_by_one_space() -> None:
    assert language.counting(3, 6) == "3 4 5 6"
    assert language.counting(7, 7) == "7"


def test_tool_call_holds_readable_json() -> None:
    text = language.tool_call("get_weather", {"city": "Oslo"})
    assert text == ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>')
    assert json.loads(text.splitlines()[1])["arguments"] == {"city": "Oslo"}


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
