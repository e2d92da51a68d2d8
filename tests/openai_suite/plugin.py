"""A plugin of the pytest that runs the client's tests: writes down what became of each, and what a failure was of."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIStatusError

outcomes: list[dict[str, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The client's repository makes errors of warnings, those of other people's packages included.
        item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        error = None if call.excinfo is None else call.excinfo.value
        outcomes.append({"test": item.nodeid, "outcome": report.outcome, "reason": _reason(error)})
    return report


def pytest_sessionfinish() -> None:
    Path(os.environ["OPENAI_SUITE_OUTCOMES"]).write_text(json.dumps(outcomes))


def _reason(error: BaseException | None) -> str:
    """What a failure was of: the server's own words, if it refused."""
    if error is None:
        return ""
    if not isinstance(error, APIStatusError):
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    body = error.body if isinstance(error.body, dict) else {}
    return f"{error.status_code}: {body.get('message', error.message)}"
