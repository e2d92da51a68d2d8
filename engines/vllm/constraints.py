"""What a request may hold its output to, by size and shape: looked at before anything compiles it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["json", "json_object", "regex", "grammar", "structural_tag"]

MAX_BYTES = 128 * 1024
"""Of a schema, structural tag or grammar. OpenAI takes names and values of 120,000 characters in one schema."""
MAX_REGEX_BYTES = 16 * 1024
MAX_NODES = 16_384
"""Values in a JSON schema or structural tag, nested ones included."""
MAX_NESTING = 64
"""Of objects and arrays in a JSON schema, as vLLM has it; a structural tag may put `_TAG_NESTING` more around it."""
_TAG_NESTING = 16
MAX_PROPERTIES = 1000
"""Of one object: what it costs to compile them grows with their square."""
MAX_PATTERNS = 32
MAX_ENUM = 2000
"""Values in all enums of a schema, and in a choice. OpenAI takes 1,000."""


class Refused(ValueError):
    """A constraint that is not taken; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint, as it is compiled.

    Attributes:
        kind: Of vLLM's kinds; a choice is a grammar by now.
        text: JSON text, regular expression or grammar.
    """

    kind: Kind
    text: str


def check_text(kind: Kind, text: str) -> None:
    """Refuses what is too long.

    Raises:
        Refused: With what to do.
    """
    limit = MAX_REGEX_BYTES if kind == "regex" else MAX_BYTES
    # Most texts are short; the bytes are only counted where they may be too many.
    if len(text) > limit or (len(text) * 4 > limit and len(text.encode("utf-8", "surrogatepass")) > limit):
        raise Refused(f"It is longer than {limit:,} bytes. Shorten it, or check the output in the application.")
    if kind == "regex" and "\x00" in text:
        raise Refused("A regular expression must not contain a NUL character.")


def check_choice(choice: list[str]) -> None:
    """Refuses too many, or too long ones.

    Raises:
        Refused: With what to do.
    """
    if len(choice) > MAX_ENUM:
        raise Refused(
            f"There are {len(choice):,} choices; at most {MAX_ENUM:,} are taken. Use a regex or fewer choices."
        )
    if sum(map(len, choice)) > MAX_BYTES:
        raise Refused(f"The choices are longer than {MAX_BYTES:,} bytes in all. Shorten them.")


def check_schema(schema: Any, *, nesting: int = MAX_NESTING) -> None:
    """Refuses a JSON schema (or a structural tag, which holds some) that is too large or nested too deeply.

    It looks at no more than the limits allow, so that it costs milliseconds whatever it is given.

    Raises:
        Refused: With what to do.
    """
    enums = patterns = length = 0
    for nodes, (depth, value) in enumerate(_values(schema)):
        if nodes >= MAX_NODES or (isinstance(value, dict) and len(value) > MAX_NODES):
            raise Refused(f"It has more than {MAX_NODES:,} values. Split it, or describe less of the output.")
        if depth > nesting:
            raise Refused(
                f"Its objects and arrays nest deeper than {nesting} levels. Use $defs and $ref, or nest less."
            )
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, dict):
            length += sum(map(len, value))
            properties = value.get("properties")
            if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
                raise Refused(
                    f"An object has {len(properties):,} properties; at most {MAX_PROPERTIES:,} are taken. Nest them."
                )
            if isinstance(value.get("pattern"), str):
                patterns += 1
            if isinstance(more := value.get("patternProperties"), dict):
                patterns += len(more)
            if patterns > MAX_PATTERNS:
                raise Refused(f"It has more than {MAX_PATTERNS} patterns. Check some of them in the application.")
            if isinstance(values := value.get("enum"), list):
                enums += len(values)
                if enums > MAX_ENUM:
                    raise Refused(
                        f"Its enums have more than {MAX_ENUM:,} values in all. Use a string with a pattern, and check "
                        "the value in the application."
                    )
        if length > MAX_BYTES:
            raise Refused(f"It is longer than {MAX_BYTES:,} bytes. Shorten its names and values.")


def check_tag(text: str) -> Any:
    """Refuses a structural tag that is too large; returns what it says.

    Raises:
        Refused: With what to do.
    """
    check_text("structural_tag", text)
    try:
        tag = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("It is not JSON.") from None
    if not isinstance(tag, dict):
        raise Refused("It is not a JSON object.")
    check_schema(tag, nesting=MAX_NESTING + _TAG_NESTING)
    return tag


def holds_grammar(tag: Any) -> bool:
    """Whether a structural tag has a free-form grammar inside."""
    return any(isinstance(value, dict) and value.get("type") == "grammar" for _, value in _values(tag))


def _values(root: Any) -> Iterator[tuple[int, Any]]:
    """Every value in a JSON value, with how deep it is nested; without recursion, and no faster than it is asked."""
    stack: list[Iterator[Any]] = [iter((root,))]
    while stack:
        for value in stack[-1]:
            depth = len(stack) - 1
            if isinstance(value, dict):
                yield depth + 1, value
                stack.append(iter(value.values()))
                break
            if isinstance(value, list):
                yield depth + 1, value
                stack.append(iter(value))
                break
            yield depth, value
        else:
            stack.pop()
