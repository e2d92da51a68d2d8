"""Reads a fleet file, and says everything that is wrong with it at once: which file, which line, which key.

Paths in an engine's options, of adapters, of the file of keys, and of the database (`./weights`,
`../templates/chat.jinja`, `~/keys.yaml`: what begins with a dot or a tilde), are relative to the file, so that a fleet
starts from any directory. Names such as `org/model` are left alone.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from clusters.errors import ClusterError
from deployments.fleet_settings import FleetSettings
from deployments.model_settings import ENGINE, KIND_KEYS, MODEL_KINDS, ModelSettings, kind_of
from deployments.settings_file.positioned_yaml import PositionedYaml
from deployments.settings_file.problems import (
    Problem,
    SettingsFileError,
    dotted,
    keys_of,
    read_mapping,
    read_text,
    schema_problem,
    yaml_problems,
)
from engines.errors import InvalidRequest
from engines.registry import options_type

_MOVED = {"migration": "is an operator of the pipeline now: `pipeline: [{migration: {limit: 3}}]`"}
DEMO_FLEET = Path(__file__).parent / "demo.yaml"


class FleetFileError(ClusterError, SettingsFileError):
    """A fleet file is wrong."""

    code = "fleet_file"


def load_fleet(file: Path) -> FleetSettings:
    """Reads and checks a fleet file.

    Raises:
        FleetFileError: It cannot be read, or something in it is wrong.
    """
    try:
        text = read_text(file)
    except SettingsFileError as error:
        raise FleetFileError(error.file, error.problems) from None
    return parse_fleet(text, str(file), file.absolute().parent)


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
        document = read_mapping(text, name, needs="models")
    except SettingsFileError as error:
        raise FleetFileError(error.file, error.problems) from None
    problems = yaml_problems(document)
    http = document.value.get("http")
    for section in ("keys", "secret", "tls"):
        if isinstance(http, dict) and isinstance(http.get(section), dict):
            http[section] = _resolve_paths(http[section], folder)
    if isinstance(document.value.get("database"), dict):
        document.value["database"] = _resolve_paths(document.value["database"], folder)
    for model in _models(document):
        if isinstance(model.get("options"), dict):
            model["options"] = _resolve_paths(model["options"], folder)
        for adapter in model["adapters"] if isinstance(model.get("adapters"), list) else ():
            if isinstance(adapter, dict) and "path" in adapter:
                adapter["path"] = _resolve_paths(adapter["path"], folder)
    fleet: FleetSettings | None = None
    try:
        fleet = FleetSettings.model_validate(document.value)
    except ValidationError as error:
        problems += [_fleet_problem(details, document) for details in error.errors()]
    problems += _engine_problems(document)
    if problems or fleet is None:
        raise FleetFileError(name, problems)
    return fleet


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
                yield schema_problem(details, keys_of(kind), document, (*here, "options"))


def _fleet_problem(details: ErrorDetails, document: PositionedYaml) -> Problem:
    problem = schema_problem(details, _fleet_keys, document)
    if details["type"] == "extra_forbidden" and details["loc"][-1] in _MOVED:
        return Problem(problem.path, problem.line, _MOVED[str(details["loc"][-1])])
    return problem


def _fleet_keys(location: tuple[str | int, ...]) -> Iterable[str]:
    """The keys at a place; pydantic's locations name the kind of a model, which no document does."""
    for position, step in enumerate(location):
        if step in MODEL_KINDS:
            kind = MODEL_KINDS[str(step)]
            rest = location[position + 1 :]
            if kind is ModelSettings and not rest:
                return [*ModelSettings.model_fields, *KIND_KEYS]
            return keys_of(kind)(rest)
    return keys_of(FleetSettings)(location)


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
