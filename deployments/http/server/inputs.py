"""Inputs of a request that may have several: one text or list of token ids, or a list of those."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from deployments.http.server.body_parts import Ints, Strings
from deployments.http.server.names import Location
from engines.errors import InvalidRequest

Input = str | Ints | Strings | Annotated[list[Ints], Field(fail_fast=True)]
"""One text, token ids, texts, or lists of token ids."""


def check_inputs(data: Mapping[str, Any], name: str, most: int) -> None:
    """Lets a field pass that holds one input or a list of them.

    Raises:
        InvalidRequest: There are more than `most`; said before each of a million is looked at.
    """
    given = data.get(name)
    if isinstance(given, list) and len(given) > most and not isinstance(given[0], int):
        raise InvalidRequest(f"{name}: there are {len(given)} of them, and at most {most} are taken.", param=name)


def read_inputs(given: Any) -> tuple[list[Any], dict[Location, Location | None]]:
    """What is in the field `input` as a list of inputs, and what the caller calls those.

    Raises:
        InvalidRequest: One is empty, or there are none.
    """
    if not given:
        raise InvalidRequest("input: it is empty.", param="input")
    single = isinstance(given, str) or isinstance(given[0], int)
    inputs = [given] if single else given
    empty = next((index for index, item in enumerate(inputs) if not item), None)
    if empty is not None:
        raise InvalidRequest(f"input[{empty}]: it is empty.", param=f"input[{empty}]")
    names: dict[Location, Location | None] = {("inputs",): ("input",)}
    if single:
        names["inputs", 0] = ("input",)
    return inputs, names
