"""Tables of kinds by name, whose classes are imported when they are first used."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from engines.errors import InvalidRequest
from engines.nearest import did_you_mean

Kind = TypeVar("Kind")


def find_kind(kinds: Mapping[str, Kind], what: str, name: str) -> Kind:
    """The kind of that name.

    Args:
        kinds: The table.
        what: What its entries are (`engine`), which is also the field that names one.
        name: The name.

    Raises:
        InvalidRequest: There is none; the message names the nearest.
    """
    kind = kinds.get(name)
    if kind is None:
        hint = did_you_mean(name, kinds)
        raise InvalidRequest(f"There is no {what} {name!r}; {what}s: {', '.join(kinds)}.{hint}", param=what)
    return kind


def load(path: str) -> Any:
    """What is at `module:name`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
