"""Packages that take seconds to import, for tests that not every run needs.

Each process that runs tests imports all of their modules, to know which tests there are: what one of these imports is
paid for by all of them, and by who runs a single test.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

_ASKED_BY_PYTEST = ("__", "_mock_name")
"""Of whatever stands in a test's module."""


def needs(package: str, why: str) -> None:
    """Skips the module that calls this where there is no such package; it is not imported to find out."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: {why}", allow_module_level=True)


def lazily(module: str) -> Any:
    """The module, which is imported when something of it is first asked for. It is to be read only."""
    return _Later(module)


class _Later:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_ASKED_BY_PYTEST):
            raise AttributeError(name)
        return getattr(import_module(self._module), name)
