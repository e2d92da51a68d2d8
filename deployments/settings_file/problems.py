"""What is wrong with a file that somebody wrote by hand: which line, which key, what to do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from deployments.settings_file import positioned_yaml
from deployments.settings_file.positioned_yaml import PositionedYaml
from engines.errors import PenstockError
from engines.nearest import nearest

KnownKeys = Callable[[tuple[str | int, ...]], Iterable[str]]
"""The keys that there are in the mapping at a place of the document."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file.

    Attributes:
        path: Where in the document (`models[0].replicas`); empty for the whole.
        line: On which line, from 1; None when there is no line to name.
        message: What is wrong and what to do.
    """

    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SettingsFileError(PenstockError):
    """A file is wrong.

    Attributes:
        file: Its name, as it was given.
        problems: Everything that is wrong with it, by line.
    """

    code = "settings_file"

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = sorted(problems, key=lambda problem: problem.line or 0)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """One line per problem, in the form that editors and terminals make a link of: `file:line: what`."""
        return [
            f"{self.file}:{problem.line}: {problem}" if problem.line else f"{self.file}: {problem}"
            for problem in self.problems
        ]


def read_text(file: Path, most_bytes: int | None = None) -> str:
    """The text of a file.

    Raises:
        SettingsFileError: It cannot be read, or has more bytes than that.
    """
    try:
        if most_bytes is not None and (size := file.stat().st_size) > most_bytes:
            raise SettingsFileError(str(file), [Problem("", None, f"it has {size} bytes, over {most_bytes}")])
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsFileError(str(file), [Problem("", None, "there is no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsFileError(str(file), [Problem("", None, f"cannot be read: {error}")]) from None


def read_mapping(text: str, name: str, needs: str) -> PositionedYaml:
    """A document that is a mapping.

    Args:
        text: YAML.
        name: What errors call the file.
        needs: The key that it needs at least.

    Raises:
        SettingsFileError: It is no YAML, or no mapping.
    """
    try:
        document = positioned_yaml.parse(text)
    except yaml.YAMLError as error:
        raise SettingsFileError(name, [_syntax_problem(error)]) from None
    if document.value is None:
        raise SettingsFileError(name, [Problem("", None, f"the file is empty; it needs `{needs}:` at least")])
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a plain value"
        raise SettingsFileError(name, [Problem("", 1, f"expected a mapping with `{needs}:`, found {kind}")])
    return document


def yaml_problems(document: PositionedYaml) -> list[Problem]:
    """What YAML itself allows and we do not."""
    return [Problem(dotted(path), line, message) for line, path, message in document.problems]


def schema_problem(
    details: ErrorDetails, known_keys: KnownKeys, document: PositionedYaml, above: positioned_yaml.Path = ()
) -> Problem:
    """What pydantic found, in our words.

    Args:
        details: As pydantic has it.
        known_keys: The keys that there are at a place, counted from where pydantic began.
        document: What was validated, or what it is in.
        above: Where in the document pydantic began.
    """
    where = _in_document(details["loc"], above, document, is_missing=details["type"] == "missing")
    message = details["msg"]
    match details["type"]:
        case "extra_forbidden":
            key = str(details["loc"][-1])
            message = f"there is no such key{_nearest(key, known_keys(details['loc'][:-1]))}"
        case "missing":
            message = "is missing"
        case "value_error":
            message = str(details.get("ctx", {}).get("error", message))
        case "literal_error":
            expected = str(details.get("ctx", {}).get("expected", ""))
            words = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
            message = (
                f"must be one of {', '.join(words)}, not {details['input']!r}{_nearest(str(details['input']), words)}"
            )
        case "string_type" if isinstance(details["input"], int | float):
            message = f"must be text; write it in quotes: {str(details['input'])!r}"
        case _:
            message = message[:1].lower() + message[1:]
            if isinstance(details["input"], str | int | float | None):
                message = f"{message}, not {details['input']!r}"
    return Problem(dotted(where), document.line(where), message)


def keys_of(root: type[BaseModel]) -> KnownKeys:
    """The keys of a schema's mappings, by their place."""

    def keys(location: tuple[str | int, ...]) -> list[str]:
        kind: Any = root
        for step in location:
            # What is no key of the model names a member of a union: the model itself.
            if isinstance(step, str) and not (_is_model(kind) and step not in kind.model_fields):
                kind = _model_in(kind.model_fields[step].annotation) if _is_model(kind) else None
        return list(kind.model_fields) if _is_model(kind) else []

    return keys


def dotted(path: positioned_yaml.Path) -> str:
    """A path as people write it: `models[0].options.max_model_len`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _in_document(
    location: tuple[str | int, ...], above: positioned_yaml.Path, document: PositionedYaml, *, is_missing: bool
) -> positioned_yaml.Path:
    """Pydantic's location without what only names a member of a union, which no document has."""
    path = above
    last = len(location) - 1
    for position, step in enumerate(location):
        if (is_missing and position == last) or (*path, step) in document.lines:
            path = (*path, step)
    return path


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _model_in(annotation: Any) -> Any:
    """The pydantic model in an annotation such as `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    if get_origin(annotation) in (list, tuple, dict, Union, UnionType, Annotated):
        for argument in get_args(annotation):
            kind = _model_in(argument)
            if _is_model(kind):
                return kind
    return None


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = nearest(word, known)
    return f"; did you mean {near}?" if near is not None else f"; known: {', '.join(known)}" if known else ""


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    message = f"this is no YAML: {what}" + (f" ({context})" if context else "")
    return Problem("", mark.line + 1 if mark is not None else None, message)
