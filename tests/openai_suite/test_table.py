from tests.openai_suite.table import table

ROOM = "tests/api_resources/chat/test_completions.py"


def outcome(name: str, reason: str = "") -> dict[str, str]:
    return {"test": f"{ROOM}::{name}", "outcome": "failed" if reason else "passed", "reason": reason}


def test_what_asks_the_same_is_one_row_with_what_is_left_to_say() -> None:
    names = [
        f"Test{kind}Completions::test_{way}_list[strict]"
        for kind in ("", "Async")
        for way in ("method", "raw_response")
    ]
    passes = outcome("TestCompletions::test_path_params_list[strict]")
    refused, missing = "400: a | b.", "404: No such thing."
    as_they_are = [passes, *(outcome(name, missing) for name in names)]
    with_ids = [passes, outcome(names[0], refused), *(outcome(name) for name in names[1:])]
    said, *_, row = table(as_they_are, with_ids, "1").splitlines()
    assert "5 tests" in said and ", 1 pass as they are, and 4 with" in said
    assert row == "| `chat/test_completions.py::Completions::list` | 4 | 1 | 400: a \\| b |"
    *_, row = table(as_they_are, [passes, *map(outcome, names)], "1").splitlines()
    assert row.endswith("| 4 | 0 | what it asks for does not exist |")
