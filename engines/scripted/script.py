"""What a scripted engine plays: a list of items, performed one after another, each in its own turn of the event loop.

    "some text"                                      says it, as one event
    0.5                                              waits so many seconds
    {"say": "tick ", "times": 9, "every_s": 0.1}     says it again and again, with a pause after each
    {"count_from": 1, "to": 9}                       says "1", " 2", ... " 9"
    {"echo": true}                                   says the prompt, word by word
    {"event": "ToolCallFinished", "fields": {"call": 0}}    emits any event
    {"error": "InstanceLost", "message": "Gone."}    fails; first in the script it is a setup error, else a stream error
    {"hold_s": 0.5}                                  first in the script: the request waits before it is accepted
    {"work": 9, "every_s": 0.1}                      computes so many tokens that say nothing, with a pause after each
    {"queue_s": 3}                                   waits in the engine's own queue, as if preempted
    {"hang": true}                                   does nothing more until it is cancelled
    {"kill_process": true, "if_prompt": "poison"}    kills the engine's process (SIGKILL), if the prompt has this text
    {"hang_engine": true, "if_prompt": "poison"}     the engine does nothing more for anybody, likewise

In Python the items may also be events, errors, and the classes below; and instead of a list a script may be a function
from the request to such a list (or generator). A script that runs out ends with Finished and reason `stop`; an error
`StreamIncomplete` is the silent end of an engine that forgets it. An error `EngineDead` finishes the engine as well.
What kills or hangs the engine does so before the request is accepted when it comes first, and each time that the
request comes.

The tokens of a script are characters, and their ids the code points.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator

from engines import errors, events
from engines.errors import EngineFailed, InvalidRequest, PenstockError
from engines.events import Event, TextDelta
from engines.messages import Message, TextPart
from engines.requests import GenerateRequest


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Say(_Item):
    """Says a text `times` times, with a pause of `every_s` seconds after each."""

    say: str
    times: int = Field(1, ge=1)
    every_s: float = Field(0.0, ge=0)


class Count(_Item):
    """Says the numbers from `count_from` to `to`, one event each, with a pause of `every_s` seconds after each."""

    count_from: int
    to: int
    every_s: float = Field(0.0, ge=0)


class Echo(_Item):
    """Says the prompt (of a conversation: its last message), word by word."""

    echo: Literal[True] = True
    every_s: float = Field(0.0, ge=0)


class Emit(_Item):
    """Emits an event, named by its class; for files, in Python an event stands for itself."""

    event: Literal[
        "TextDelta",
        "ReasoningDelta",
        "RedactedReasoning",
        "ToolCallStarted",
        "ToolCallArgumentsDelta",
        "ToolCallFinished",
        "Finished",
    ]
    fields: dict[str, Any] = {}

    def build(self) -> Event:
        """The event."""
        built: Event = TypeAdapter(getattr(events, self.event)).validate_python(self.fields)
        return built

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        self.build()
        return self


class Fail(_Item):
    """Raises an error, named by its class; for files, in Python an error stands for itself."""

    error: str
    message: str | None = None
    fields: dict[str, Any] = {}

    def build(self) -> PenstockError:
        """The error."""
        cls = getattr(errors, self.error, None)
        if not (isinstance(cls, type) and issubclass(cls, PenstockError)):
            raise ValueError(f"there is no error {self.error!r}")
        try:
            return cls(*(() if self.message is None else (self.message,)), **self.fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"{self.error} cannot be made from these fields: {error}") from None

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        self.build()
        return self


class Hold(_Item):
    """Keeps the request waiting for `hold_s` seconds before it is accepted; only first in a script."""

    hold_s: float = Field(ge=0)


class Work(_Item):
    """Computes `work` tokens that say nothing, with a pause of `every_s` seconds after each."""

    work: int = Field(ge=1)
    every_s: float = Field(0.0, ge=0)


class Queue(_Item):
    """Keeps the stream waiting in the engine's own queue for `queue_s` seconds, as if it had been preempted."""

    queue_s: float = Field(ge=0)


class Hang(_Item):
    """Does nothing more until the request is cancelled."""

    hang: Literal[True] = True


class _Harm(_Item):
    if_prompt: str = ""

    def strikes(self, request: GenerateRequest) -> bool:
        """Whether this request is one that does harm."""
        return self.if_prompt in prompt_text(request)


class KillProcess(_Harm):
    """Kills the process that the engine lives in, without notice."""

    kill_process: Literal[True] = True


class HangEngine(_Harm):
    """The engine performs nothing more, for this request or any other."""

    hang_engine: Literal[True] = True


def _kind(value: Any) -> str | None:
    if isinstance(value, _Item):
        return type(value).__name__.lower()
    if isinstance(value, str):
        return "text"
    if isinstance(value, (int, float)):
        return "wait"
    if not isinstance(value, dict):
        return None
    return next((kind for key, kind in _KINDS.items() if key in value), None)


_KINDS = {
    "say": "say",
    "count_from": "count",
    "echo": "echo",
    "event": "emit",
    "error": "fail",
    "hold_s": "hold",
    "work": "work",
    "queue_s": "queue",
    "hang": "hang",
    "kill_process": "killprocess",
    "hang_engine": "hangengine",
}


FileItem = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Annotated[float, Field(ge=0)], Tag("wait")]
    | Annotated[Say, Tag("say")]
    | Annotated[Count, Tag("count")]
    | Annotated[Echo, Tag("echo")]
    | Annotated[Emit, Tag("emit")]
    | Annotated[Fail, Tag("fail")]
    | Annotated[Hold, Tag("hold")]
    | Annotated[Work, Tag("work")]
    | Annotated[Queue, Tag("queue")]
    | Annotated[Hang, Tag("hang")]
    | Annotated[KillProcess, Tag("killprocess")]
    | Annotated[HangEngine, Tag("hangengine")],
    Discriminator(
        _kind,
        custom_error_type="script_item",
        custom_error_message="an item of a script is a text, a number of seconds, or an object with one of the keys "
        + ", ".join(_KINDS),
    ),
]
"""What an item of a script may be in a file."""

Item = (
    str
    | float
    | Say
    | Count
    | Echo
    | Emit
    | Fail
    | Hold
    | Work
    | Queue
    | Hang
    | KillProcess
    | HangEngine
    | Event
    | PenstockError
)
Script = Iterable[Item]
Handler = Callable[[GenerateRequest], Script]


Atom = Event | PenstockError | float | Work | Queue | Hang | KillProcess | HangEngine
"""What is done in one turn of the event loop."""


def atoms(script: Script, request: GenerateRequest) -> Iterator[Atom]:
    """Takes the items of a script apart into what is done in one turn of the event loop each."""
    for item in script:
        match item:
            case str():
                yield _delta(item)
            case int() | float():
                yield float(item)
            case Say():
                yield from _spaced([item.say] * item.times, item.every_s)
            case Count():
                step = 1 if item.to >= item.count_from else -1
                numbers = range(item.count_from, item.to + step, step)
                yield from _spaced((f"{' ' if n != item.count_from else ''}{n}" for n in numbers), item.every_s)
            case Echo():
                words = prompt_text(request).split(" ")
                yield from _spaced((f"{' ' if i else ''}{word}" for i, word in enumerate(words)), item.every_s)
            case Work():
                for _ in range(item.work):
                    yield Work(work=1, every_s=item.every_s)
            case Emit() | Fail():
                yield item.build()
            case PenstockError():
                yield copy(item)  # An error carries where it was raised: each request has its own.
            case KillProcess() | HangEngine():
                if item.strikes(request):
                    yield item
            case Hold():
                raise EngineFailed("A script may hold a request only before it says anything.")
            case _:
                yield item


def _spaced(texts: Iterable[str], every_s: float) -> Iterator[Atom]:
    for text in texts:
        yield _delta(text)
        if every_s:
            yield every_s


def _delta(text: str) -> TextDelta:
    return TextDelta(text, 0, tuple(map(ord, text)))


def _chain(first: Item | None, rest: Iterator[Item]) -> Iterator[Item]:
    if first is not None:
        yield first
        yield from rest


def prompt_text(request: GenerateRequest) -> str:
    """What a script echoes: the prompt, or the last message; and what is attached."""
    if request.messages is not None:
        attached = [f" {one.media_type}:{one.digest}" for one in request.attachments]
        return "".join([last_text(request.messages), *attached])
    if request.prompt is not None:
        return request.prompt
    return text_of(request.prompt_token_ids or [], "prompt_token_ids")


def last_text(messages: list[Message]) -> str:
    """The text of the last message."""
    content = messages[-1].content
    if isinstance(content, list):
        return "".join(part.text for part in content if isinstance(part, TextPart))
    return content or ""


def text_of(token_ids: list[int], param: str) -> str:
    """The text of token ids.

    Raises:
        InvalidRequest: One is not a code point; names `param`.
    """
    try:
        return "".join(map(chr, token_ids))
    except ValueError:
        raise InvalidRequest("A token id is not a code point.", param=param) from None
