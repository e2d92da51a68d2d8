"""Operators by name: what a fleet file says in `pipeline:`, and the order in which they make sense.

Nothing is imported until an operator is made or its options are parsed: a fleet file without `trace` needs no
OpenTelemetry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, model_serializer, model_validator

from engines.errors import InvalidRequest
from engines.named_kinds import find_kind, load
from engines.nearest import did_you_mean
from engines.operators.operator import OperatorOptions, Transparent


@dataclass(frozen=True, slots=True)
class OperatorKind:
    """Where an operator and its options live, as `module:name`.

    Attributes:
        operator: Its class, made from its options.
        options: The class of its options.
        why_outside: Why it stands outside of those that come after it; empty: it makes sense anywhere.
    """

    operator: str
    options: str
    why_outside: str = ""


_ROOM = "engines.operators"
OPERATORS: dict[str, OperatorKind] = {
    "trace": OperatorKind(
        f"{_ROOM}.trace:Trace",
        f"{_ROOM}.trace_options:TraceOptions",
        "what stands before trace is missing from its spans",
    ),
    "recovery": OperatorKind(
        f"{_ROOM}.recovery:Recovery",
        f"{_ROOM}.recovery:RecoveryOptions",
        "recovery goes on with what the others could not save, and what it sends again is tried again by retry",
    ),
    "retry": OperatorKind(
        f"{_ROOM}.retry:Retry",
        f"{_ROOM}.retry:RetryOptions",
        "each attempt of retry is one for breaker to judge, and migration does not wait as retry does",
    ),
    "breaker": OperatorKind(
        f"{_ROOM}.breaker:Breaker",
        f"{_ROOM}.breaker:BreakerOptions",
        "a stream that migration saves is no fault for breaker to count",
    ),
    "migration": OperatorKind(
        f"{_ROOM}.migration:Migration",
        f"{_ROOM}.migration:MigrationOptions",
        "migration submits to the instances themselves",
    ),
    "timeout": OperatorKind(f"{_ROOM}.timeout:Timeouts", f"{_ROOM}.timeout:TimeoutOptions"),
}
"""The outermost first."""


class OperatorSpec(BaseModel):
    """An operator of a pipeline, in a form that crosses processes.

    A fleet file writes `retry`, or `{retry: {attempts: 5}}`.

    Attributes:
        name: Its name in the registry.
        options: Its options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: SerializeAsAny[OperatorOptions]

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, said: Any) -> Any:
        if isinstance(said, str):
            said = {said: {}}
        if not isinstance(said, dict) or set(said) == {"name", "options"}:
            return said
        if len(said) != 1:
            raise ValueError("is one operator, with its options: `retry`, or `{retry: {attempts: 5}}`")
        ((name, options),) = said.items()
        try:
            kind = load(operator_kind(str(name)).options)
            return {"name": name, "options": kind.model_validate(options if options is not None else {})}
        except InvalidRequest as error:
            raise ValueError(error.message) from None
        except ValidationError as error:
            raise ValueError(_said(str(name), error)) from None

    @model_serializer
    def _to_file(self) -> str | dict[str, Any]:
        options = self.options.model_dump(mode="json", exclude_defaults=True)
        return {self.name: options} if options else self.name


def operator_kind(name: str) -> OperatorKind:
    """The operator of that name.

    Raises:
        InvalidRequest: There is none; the message names the nearest.
    """
    return find_kind(OPERATORS, "operator", name)


def make_operator(spec: OperatorSpec) -> Transparent:
    """Makes the operator of a spec; it is not linked.

    Raises:
        ImportError: It needs a package that is not installed (`OperatorOptions.packages`).
    """
    operator = load(operator_kind(spec.name).operator)(spec.options)
    assert isinstance(operator, Transparent)
    return operator


def check_order(names: Sequence[str]) -> None:
    """Returns if the operators of a pipeline, the outermost first, stand in an order that makes sense.

    Raises:
        ValueError: They do not; the message says why, and what the order is.
    """
    order = [name for name, kind in OPERATORS.items() if kind.why_outside]
    placed = [name for name in names if name in order]
    for first, second in pairwise(placed):
        if first == second:
            raise ValueError(f"{first} stands twice in the pipeline")
        if order.index(first) > order.index(second):
            anywhere = [name for name, kind in OPERATORS.items() if not kind.why_outside]
            raise ValueError(
                f"{second} must stand before {first}: {OPERATORS[second].why_outside}. The order is "
                f"{', '.join(order)}; {', '.join(anywhere)} may stand anywhere"
            )


def _said(name: str, error: ValidationError) -> str:
    details = error.errors()[0]
    field = ".".join(map(str, (name, *details["loc"])))
    if details["type"] == "extra_forbidden":
        known = load(operator_kind(name).options).model_fields
        return f"{field}: there is no such option.{did_you_mean(str(details['loc'][-1]), known)}"
    return f"{field}: {details['msg'][:1].lower()}{details['msg'][1:]}, not {details['input']!r}"
