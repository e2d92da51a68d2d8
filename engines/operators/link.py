"""Pipelines: `link(a, b, c, engine)` is `a(b(c(engine)))`, and an engine itself.

Neighbours must fit: what an operator asks for is what the next one answers. The type checker sees that, and `link`
checks it again, for pipelines that are put together at run time.
"""

from itertools import zip_longest
from typing import Any, TypeVar, get_args, get_origin, overload

from engines.contract import Engine
from engines.operators.operator import Operator

R0 = TypeVar("R0")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
E0 = TypeVar("E0")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")


@overload
def link(engine: Engine[R0, E0], /) -> Engine[R0, E0]: ...
@overload
def link(a: Operator[R0, E0, R1, E1], engine: Engine[R1, E1], /) -> Engine[R0, E0]: ...
@overload
def link(a: Operator[R0, E0, R1, E1], b: Operator[R1, E1, R2, E2], engine: Engine[R2, E2], /) -> Engine[R0, E0]: ...
@overload
def link(
    a: Operator[R0, E0, R1, E1], b: Operator[R1, E1, R2, E2], c: Operator[R2, E2, R3, E3], engine: Engine[R3, E3], /
) -> Engine[R0, E0]: ...
@overload
def link(*parts: Engine[R0, E0]) -> Engine[R0, E0]: ...  # longer ones, whose operators leave the types alone


def link(*parts: Engine[Any, Any]) -> Engine[Any, Any]:
    """Builds a pipeline.

    Args:
        parts: Operators, the outermost first, and the engine that they are around.

    Returns:
        The outermost operator; the engine itself where there is none.

    Raises:
        TypeError: Neighbours do not fit: one asks for what the next does not answer; or what is no operator stands
            before the end.
        ValueError: An operator is linked already, or nothing is behind the last one.
    """
    if not parts:
        raise ValueError("link() needs an engine.")
    engine = parts[-1]
    if isinstance(engine, Operator):
        engine.inner  # noqa: B018 - an operator ends a pipeline if it is around something
    for operator in reversed(parts[:-1]):
        if not isinstance(operator, Operator):
            raise TypeError(f"{type(operator).__name__} is no operator, and so must stand last.")
        _check_fit(operator, engine)
        engine = operator.around(engine)
    return engine


def _check_fit(operator: Operator[Any, Any, Any, Any], engine: Engine[Any, Any]) -> None:
    asked = _arguments(type(operator), Operator)[2:]
    answered = _arguments(type(engine), Engine)
    for what, wanted, given in zip(("requests", "events"), asked, answered, strict=True):
        # A class that is generic itself says nothing of its type: it fits around anything.
        if wanted != given and not any(isinstance(kind, TypeVar) for kind in (wanted, given)):
            raise TypeError(
                f"{type(operator).__name__} does not fit around {type(engine).__name__}: it asks for {what} of type "
                f"{_name(wanted)}, and gets {_name(given)}."
            )


def _arguments(cls: type, base: type) -> tuple[Any, ...]:
    """What a class gives for the type parameters of one of its bases; a parameter itself where it leaves that open."""
    if cls is base:
        return _parameters(cls)
    for parent in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(parent) or parent
        if isinstance(origin, type) and issubclass(origin, base):
            meaning: dict[Any, Any] = {}
            for parameter, given in zip_longest(_parameters(origin), get_args(parent), fillvalue=None):
                default = getattr(parameter, "__default__", parameter)
                meaning[parameter] = meaning.get(default, default) if given is None else given
            return tuple(meaning.get(argument, argument) for argument in _arguments(origin, base))
    raise TypeError(f"{cls.__name__} is no {base.__name__}.")


def _parameters(cls: type) -> tuple[Any, ...]:
    parameters: tuple[Any, ...] = getattr(cls, "__parameters__", ())
    return parameters


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
