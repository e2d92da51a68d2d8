"""What a client can do to the others by what it holds its output to: ``python -m tests.benchmarks.hostile``.

One engine of the demo model, real vLLM. A hostile client keeps requests of one kind in flight, each with a constraint
that nobody has seen before; meanwhile a plain stream runs, and another client asks again and again for a small schema
of its own, new each time, and for one that is known.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from engines.context import Context
from engines.contract import Engine
from engines.errors import PenstockError
from engines.events import TextDelta
from tests.engines.vllm.asking import ask, chat, counting
from tests.engines.vllm.booted import demo_engine

IN_FLIGHT = 16
SECONDS = 6.0

Constraint = dict[str, Any]
_number = itertools.count()


def _names(count: int, prefix: str) -> list[str]:
    return [f"{prefix}_{number}" for number in range(count)]


def _nested(depth: int, name: str) -> Constraint:
    schema: Constraint = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {name: schema}, "required": [name]}
    return schema


def _branching(depth: int, name: str) -> Constraint:
    schema: Constraint = {"const": name}
    for _ in range(depth):
        schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
    return schema


def _fan(depth: int, name: str) -> Constraint:
    defs: Constraint = {"d0": {"const": name}}
    for number in range(depth):
        reference = {"$ref": f"#/$defs/d{number}"}
        defs[f"d{number + 1}"] = {"type": "object", "properties": {"a": reference, "b": reference}}
    return {"$defs": defs, "$ref": f"#/$defs/d{depth}"}


HOSTILE: dict[str, Callable[[str], Constraint]] = {
    "nothing": lambda name: {},
    "enum of 100,000": lambda name: {"json_schema": {"enum": _names(100_000, name)}},
    "choice of 100,000": lambda name: {"choice": _names(100_000, name)},
    "enum of 2,000": lambda name: {"json_schema": {"enum": _names(2000, name)}},
    "object of 1,000 properties": lambda name: {
        "json_schema": {"type": "object", "properties": {key: {"type": "string"} for key in _names(1000, name)}}
    },
    "30 levels of objects": lambda name: {"json_schema": _nested(30, name)},
    "anyOf, doubled 10 times": lambda name: {"json_schema": _branching(10, name)},
    "$ref, doubled 60 times": lambda name: {"json_schema": _fan(60, name)},
    "minItems 100,000": lambda name: {
        "json_schema": {"type": "array", "minItems": 100_000, "items": {"type": "object", "required": [name]}}
    },
    "minLength 1,000,000": lambda name: {
        "json_schema": {
            "type": "object",
            "properties": {name: {"type": "string", "minLength": 1_000_000}},
            "required": [name],
        }
    },
    "a pattern in a schema, (a+)+ alike": lambda name: {
        "json_schema": {"type": "string", "pattern": f"({name}|((a*)*)*)*b"}
    },
    "regex ((a*)*)*b": lambda name: {"regex": f"{name}((a*)*)*b"},
    "regex (a|aa)+, 200 times": lambda name: {"regex": name + "(a|aa)+" * 200},
    "regex of nested repetitions": lambda name: {"regex": name + "(((a{1,300}){1,300}){1,300}){1,300}"},
    "regex of 16,000 letters": lambda name: {"regex": name + "a" * 16_000},
    "ambiguous grammar": lambda name: {
        "grammar": f'root ::= a | "{name}"\na ::= a a a | a a | "a" | "aa" | ""',
    },
}


@dataclass
class Seen:
    """What the others saw, and what the hostile client got.

    Attributes:
        new_s: How long a request with a small new schema took, each.
        known_s: The same with a schema that is known.
        pause_s: Longest pause of the plain stream.
        answers: Of the hostile client, by kind.
        hostile_s: How long its answers took, each.
    """

    new_s: list[float] = field(default_factory=list)
    known_s: list[float] = field(default_factory=list)
    pause_s: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    hostile_s: list[float] = field(default_factory=list)


async def run(
    engine: Engine, constraint: Callable[[str], Constraint], *, in_flight: int = IN_FLIGHT, seconds: float = SECONDS
) -> Seen:
    """Lets a hostile client send such constraints, and looks at what the others see."""
    seen = Seen()
    until_s = time.monotonic() + seconds
    await ask(engine, _small("known"))
    requests: Iterator[Any] = iter(())
    if constraint("x"):
        requests = _requests(constraint)
        requests = itertools.chain([next(requests)], requests)
    hostile = [asyncio.create_task(_hostile(engine, requests, seen)) for _ in range(in_flight)]
    stream = asyncio.create_task(_stream(engine, seen))
    try:
        while time.monotonic() < until_s:
            for times_s, name in ((seen.new_s, f"name{next(_number)}"), (seen.known_s, "known")):
                began_s = time.monotonic()
                await ask(engine, _small(name))
                times_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.05)
    finally:
        for task in (stream, *hostile):
            task.cancel()
        for task in (stream, *hostile):
            with suppress(asyncio.CancelledError):
                await task
    return seen


def _small(name: str) -> Any:
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer", "maximum": 99, "minimum": 0}},
        "required": [name],
        "additionalProperties": False,
    }
    return chat("describe Anna as json", sampling={"guided": {"json_schema": schema}, "max_tokens": 24})


def _requests(constraint: Callable[[str], Constraint]) -> Iterator[Any]:
    """Of the hostile client, without an end. Those that take long to make, here, are the same few again and again."""
    made: list[Any] = []
    while True:
        began_s = time.monotonic()
        made.append(chat("hello", sampling={"guided": constraint(f"x{next(_number)}"), "max_tokens": 64}))
        yield made[-1]
        if time.monotonic() - began_s > 0.05:
            yield from itertools.cycle(made)


async def _hostile(engine: Engine, requests: Iterator[Any], seen: Seen) -> None:
    for request in requests:
        began_s = time.monotonic()
        try:
            await ask(engine, request)
            seen.answers["answered"] += 1
        except PenstockError as error:
            seen.answers[str(error.status)] += 1
        seen.hostile_s.append(time.monotonic() - began_s)
        await asyncio.sleep(0.001)


async def _stream(engine: Engine, seen: Seen) -> None:
    while True:
        last_s: float | None = None
        async for event in engine.generate(counting(1, 300), Context()):
            if isinstance(event, TextDelta):
                now_s = time.monotonic()
                if last_s is not None:
                    seen.pause_s = max(seen.pause_s, now_s - last_s)
                last_s = now_s


def _rows(kinds: list[str]) -> Iterator[str]:
    return (kind for kind in HOSTILE if not kinds or any(part in kind for part in kinds))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _main(kinds: list[str], seconds: float, in_flight: int) -> None:
    _say("| a hostile client sends | it gets | after, at most | new schema: p50 | most | known: most | plain pause |")
    _say("|---|---|---|---|---|---|---|")
    async with demo_engine() as engine:
        for kind in _rows(kinds):
            seen = await run(engine, HOSTILE[kind], in_flight=in_flight, seconds=seconds)
            new_s = sorted(seen.new_s) or [0.0]
            got = ", ".join(f"{count} {what}" for what, count in sorted(seen.answers.items())) or "nothing"
            _say(
                f"| {kind} | {got} | {max(seen.hostile_s, default=0.0):.2f} s | {new_s[len(new_s) // 2] * 1e3:.0f} ms "
                f"| {new_s[-1] * 1e3:.0f} ms | {max(seen.known_s, default=0.0) * 1e3:.0f} ms "
                f"| {seen.pause_s * 1e3:.0f} ms |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hostile", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="parts of the names of what is sent; default: everything")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="requests of the hostile client at a time")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.kinds, arguments.seconds, arguments.in_flight))
