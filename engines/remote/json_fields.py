"""Fields of JSON that another server wrote: what has not the type that it should have counts as not there."""

import json
from collections.abc import Mapping
from typing import Any


def as_dict(value: Any) -> Mapping[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The array, or an empty one."""
    return value if isinstance(value, list) else []


def as_str(value: Any) -> str:
    """The string, or an empty one."""
    return value if isinstance(value, str) else ""


def as_count(value: Any) -> int:
    """The number, where it is whole and not negative, or 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def is_json(text: str) -> bool:
    """Whether a text is whole JSON, rather than the beginning of some."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
