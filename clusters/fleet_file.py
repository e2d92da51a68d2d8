"""Reads a fleet file, and says everything that is wrong with it at once: which file, which line, which key.

Paths in an engine's options (`./weights`, `../templates/chat.jinja`, `~/models/x`: what begins with a dot or a tilde)
are relative to the file, so that a fleet starts from any directory. Names such as `org/model` are left alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clusters import positioned_yaml
from clusters.errors import ClusterError
from clusters.positioned_yaml import PositionedYaml
from deployments.fleet_settings import FleetSettings
from deployments.model_settings import ENGINE, KIND_KEYS, MODEL_KINDS, ModelSettings, kind_of
from engines.errors import InvalidRequest
from engines.nearest import nearest
from engines.registry import options_type

_MOVED = {"migration": "is an operator of the pipeline now: `pipeline: [{migration: {limit: 3}}]`"}
DEMO_FLEET = Path(__file__).parent / "demo.yaml"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a fleet file.

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


class FleetFileError(ClusterError):
    """A fleet file is wrong.

    Attributes:
        file: Its name, as it was given.
        problems: Everything that is wrong with it, by line.
    """

    code = "fleet_file"

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """One line per problem, in the form that editors and terminals make a link of: `file:line: what`."""
        return [
            f"{self.file}:{problem.line}: {problem}" if problem.line else f"{self.file}: {problem}"
            for problem in self.problems
        ]


def load_fleet(file: Path) -> FleetSettings:
    """Reads and checks a fleet file.

    Raises:
        FleetFileError: It cannot be read, or something in it is wrong.
    """
    name = str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FleetFileError(name, [Problem("", None, "there is no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FleetFileError(name, [Problem("", None, f"cannot be read: {error}")]) from None
    return parse_fleet(text, name, file.absolute().parent)


def parse_fleet(text: str, name: str, folder: Path) -> FleetSettings:
    """Checks the text of a fleet file.

    Args:
        text: YAML.
        name: What errors call it.
        folder: What paths in it are relative to.

    Raises:
        FleetFileError: Something in it is wrong.
    """
    try:
        document = positioned_yaml.parse(text)
    except yaml.YAMLError as error:
        raise FleetFileError(name, [_syntax_problem(error)]) from None
    if document.value is None:
        raise FleetFileError(name, [Problem("", None, "the file is empty; it needs `models:` at least")])
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a plain value"
        raise FleetFileError(name, [Problem("", 1, f"expected a mapping with `models:`, found {kind}")])

    problems = [Problem(dotted(path), line, message) for line, path, message in document.problems]
    for model in _models(document):
        if isinstance(model.get("options"), dict):
            model["options"] = _resolve_paths(model["options"], folder)
    fleet: FleetSettings | None = None
    try:
        fleet = FleetSettings.model_validate(document.value)
    except ValidationError as error:
        problems += [_problem(details, FleetSettings, (), document) for details in error.errors()]
    problems += _engine_problems(document)
    if problems or fleet is None:
        raise FleetFileError(name, sorted(problems, key=lambda problem: problem.line or 0))
    return fleet


def dotted(path: positioned_yaml.Path) -> str:
    """A path as people write it: `models[0].options.max_model_len`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _models(document: PositionedYaml) -> list[dict[str, Any]]:
    models = document.value.get("models")
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []


def _engine_problems(document: PositionedYaml) -> Iterator[Problem]:
    """What is wrong with engine names and their options, also where the rest of the model is wrong."""
    models = document.value.get("models")
    for position, model in enumerate(models if isinstance(models, list) else ()):
        if not isinstance(model, dict) or kind_of(model) != ENGINE:
            continue
        here = ("models", position)
        engine = model.get("engine", ModelSettings.model_fields["engine"].default)
        options = model.get("options", {})
        if not isinstance(engine, str) or not isinstance(options, dict):
            continue  # The schema has said so.
        try:
            kind = options_type(engine)
        except InvalidRequest as error:
            path = (*here, "engine")
            yield Problem(dotted(path), document.line(path), error.message)
            continue
        try:
            kind.model_validate(options)
        except ValidationError as error:
            for details in error.errors():
                yield _problem(details, kind, (*here, "options"), document)


def _problem(
    details: ErrorDetails, root: type[BaseModel], above: positioned_yaml.Path, document: PositionedYaml
) -> Problem:
    """What pydantic found, in our words: `root` is what it validated, `above` where that is in the document."""
    where = _in_document(details["loc"], above, document, is_missing=details["type"] == "missing")
    message = details["msg"]
    match details["type"]:
        case "extra_forbidden":
            key = str(details["loc"][-1])
            known = _known_keys(root, details["loc"][:-1])
            message = _MOVED.get(key) or f"there is no such key{_nearest(key, known)}"
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


def _known_keys(root: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    kind: Any = root
    for step in location:
        if step in MODEL_KINDS:
            kind = MODEL_KINDS[str(step)]
        elif isinstance(step, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(step)
            kind = _model_in(field.annotation) if field is not None else None
    if kind is ModelSettings:
        return [*ModelSettings.model_fields, *KIND_KEYS]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The pydantic model in an annotation such as `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    if get_origin(annotation) in (list, tuple, dict, Union, UnionType):
        for argument in get_args(annotation):
            kind = _model_in(argument)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                return kind
    return None


def _nearest(word: str, known: list[str]) -> str:
    near = nearest(word, known)
    return f"; did you mean {near}?" if near is not None else f"; known: {', '.join(known)}" if known else ""


def _resolve_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _resolve_paths(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve_paths(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str((folder / value).resolve())
    if isinstance(value, str) and value.startswith("~/"):
        return str(Path(value).expanduser())
    return value


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    message = f"this is no YAML: {what}" + (f" ({context})" if context else "")
    return Problem("", mark.line + 1 if mark is not None else None, message)
