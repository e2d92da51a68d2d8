"""What the bodies of APIs are made of: parts with their own keys, fields that are refused, unions told by `type`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field

from engines.errors import Unsupported

# A list of a million wrong items is one error, not a million.
Strings = Annotated[list[str], Field(fail_fast=True)]
Ints = Annotated[list[int], Field(fail_fast=True)]
Ignored = Any
"""Of a field without effect: it may hold anything."""
Refusals = Mapping[str, tuple[str, tuple[Any, ...]]]
"""Documented fields that cannot be honoured: why not, and the values that ask for nothing. Null always does."""


class Strict(BaseModel):
    """A part of a body: its own keys, of their own types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def refused(why: str, *neutral: Any) -> BeforeValidator:
    """Of a field that may only ask for nothing: null, or one of `neutral`."""

    def check(value: Any) -> Any:
        if value is not None and value not in neutral:
            raise ValueError(why)
        return value

    return BeforeValidator(check)


def type_of(value: Any) -> str | None:
    """The `type` of a part of a body; None: it has none."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


def tagged(names: Mapping[str, str], what: str, kind: Callable[[Any], str | None] = type_of) -> Discriminator:
    """Tells members of a union by their `type`. Their tags are no keys: pydantic writes them between those.

    Args:
        names: The members' tags, by `type`.
        what: What they are, in an error.
        kind: Finds the `type` of one.
    """

    def tag(value: Any) -> str | None:
        found = kind(value)
        return None if found is None else names.get(found)

    return Discriminator(
        tag,
        custom_error_type="unknown_type",
        custom_error_message=f"{what} is of one of the types {', '.join(names)}",
    )


def supported(
    data: Mapping[str, Any], refusals: Refusals, kinds: Mapping[str, type[Unsupported]] | None = None
) -> dict[str, Any]:
    """A body without the fields that cannot be honoured.

    Args:
        data: The body.
        refusals: Those fields.
        kinds: Of some of them: the error that says so.

    Raises:
        Unsupported: One of them asks for something.
    """
    found = {}
    for name, value in data.items():
        why, neutral = refusals.get(name, ("", None))
        if neutral is None:
            found[name] = value
        elif value is not None and value not in neutral:
            kind = (kinds or {}).get(name, Unsupported)
            raise kind(f"{name}: {why}.", param=name)
    return found
