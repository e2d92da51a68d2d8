"""Queries and documents as clients write them: a text, or a list of texts, each plain or as an object with a `text`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.http.server.names import Location, notation
from deployments.http.server.validation import check_known, wrong_at
from engines.call_requests import MAX_INPUTS
from engines.errors import InvalidRequest, Unsupported


@dataclass(frozen=True, slots=True)
class Texts:
    """What one field holds.

    Attributes:
        field: Its name.
        texts: The texts.
        is_single: Whether there is one, which is in no list.
    """

    field: str
    texts: list[str]
    is_single: bool

    def names(self, ours: str) -> dict[Location, Location | None]:
        """What the caller calls the field that `engines.pooling_requests` calls so."""
        table: dict[Location, Location | None] = {(ours,): (self.field,)}
        if self.is_single:
            table[ours, 0] = (self.field,)
        return table


def read_texts(data: Mapping[str, Any], field: str) -> Texts:
    """The texts of a field.

    Raises:
        InvalidRequest: It is missing, or holds none, too many, or something else.
        Unsupported: One is more than text.
    """
    given = data.get(field)
    if given is None:
        raise wrong_at((field,), "this field is required")
    if not isinstance(given, list):
        return Texts(field, [_text(given, (field,))], is_single=True)
    if not given:
        raise wrong_at((field,), "it is empty")
    if len(given) > MAX_INPUTS:
        # Said before each of a million is looked at.
        raise wrong_at((field,), f"there are {len(given)} of them, and at most {MAX_INPUTS} are taken")
    return Texts(field, [_text(item, (field, place)) for place, item in enumerate(given)], is_single=False)


def read_text(data: Mapping[str, Any], field: str) -> Texts:
    """The one text of a field; raises what `read_texts` raises."""
    if isinstance(data.get(field), list):
        raise wrong_at((field,), "it is one text, and no list of them")
    return read_texts(data, field)


def _text(given: Any, place: Location) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(given, dict):
        raise wrong_at(place, "it must be a text, or an object with a `text`")
    name = notation(place)
    if "content" in given:
        raise Unsupported(
            f"{name}.content: images and other parts are not scored. Send a text.", param=f"{name}.content"
        )
    check_known(given, ("text",), f"{name}.")
    text = given.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{name}.text: it must be a text.", param=f"{name}.text")
    return text
