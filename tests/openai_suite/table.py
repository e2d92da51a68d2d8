"""What became of the client's tests, as a table of docs/compatibility.md: those that failed, and why."""

import re
from collections.abc import Mapping, Sequence

Outcomes = Sequence[Mapping[str, str]]

_NAME = re.compile(
    r"tests/api_resources/(.*)::Test(?:Async)?(\w+)::test_(?:(?:method|raw_response|streaming_response)_)?"
)
_CHARS = 160
_MADE_UP = "what it asks for does not exist"
_NOTES = {
    "in ('assistant',)": (
        "the client's type of these messages knows the assistant's alone, while OpenAI's own example is a user's"
    ),
    "invalid for expected schema": (
        "the client asks for base64 by itself, and its strict mode, which is for its tests, takes numbers alone: what "
        "OpenAI answers would fail likewise"
    ),
    "model: this field is required": "OpenAI finds one in a prompt that it keeps; none are kept here",
    "access_programs": "it sends every field there is",
    "audio is not supported": "it sends every field there is",
    "personality": "it sends every field there is",
}
"""What the server's own words leave open, by what is in them."""


def table(as_they_are: Outcomes, with_ids: Outcomes, version: str) -> str:
    """The table.

    Args:
        as_they_are: Of the tests as they come.
        with_ids: Of the same tests with ids of what there is.
        version: The client's.
    """
    passed, changed = ({one["test"] for one in run if one["outcome"] == "passed"} for run in (as_they_are, with_ids))
    lines = [
        f"Of the {len(as_they_are)} tests of `openai` {version}, {len(passed)} pass as they are, and "
        f"{len(changed)} with ids of what there is in place of made-up ones. Why the others fail:",
        "",
        "| tests | failed | with such ids | why |",
        "|---|---|---|---|",
    ]
    reasons = {one["test"]: one["reason"] for one in with_ids}
    failed: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for one in as_they_are:
        if one["outcome"] != "passed":
            name = _grouped(one["test"])
            failed.setdefault(name, []).append(one["test"])
            # What is left to say where ids exist says more.
            first.setdefault(name, reasons.get(one["test"]) or one["reason"])
    for name, tests in failed.items():
        left = sum(test not in changed for test in tests)
        lines.append(f"| `{name}` | {len(tests)} | {left} | {_why(first[name]) if left else _MADE_UP} |")
    return "\n".join(lines)


def _grouped(test: str) -> str:
    """A test's name without the ways in which they ask the same: blocking or not, raw or not, strict or not."""
    plain = test.partition("[")[0]
    found = _NAME.match(plain)
    return plain if found is None else f"{found[1]}::{found[2]}::{plain[found.end() :]}"


def _why(reason: str) -> str:
    """A reason as it stands in a table."""
    said = (reason if len(reason) <= _CHARS else f"{reason[:_CHARS]}...").replace("|", "\\|").rstrip(".")
    return "; ".join([said, *(note for part, note in _NOTES.items() if part in reason)])
