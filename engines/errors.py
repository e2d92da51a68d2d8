"""Every error that Penstock raises on purpose, in one tree.

Each leaf knows its HTTP status, whether another instance may be tried, and, where it helps, how long to wait.

    PenstockError
    ├── InvalidRequest            400  the request itself is wrong; names the field
    │   ├── ContextOverflow       400  prompt (plus what is asked for) does not fit the context
    │   ├── Unsupported           400  a feature that this model or engine does not have
    │   ├── AttachmentRefused     400  an image or file that may not be fetched or read
    │   ├── ContentFiltered       400  a provider's content filter does not let the prompt pass
    │   └── ConversationFull      400  a conversation holds as much as it may
    ├── Unauthorized              401
    ├── Forbidden                 403
    ├── ModelNotFound             404  lists what is served
    ├── InstanceNotFound          404  the model has no instance of the name that was given
    ├── RequestTooLarge           413  known before the body is read
    ├── Overload                  429  base of the four below; try elsewhere, then later
    │   ├── QueueFull             429  the instance's admission gate is full
    │   ├── QueueTimeout          429  it waited at the gate for too long; not tried elsewhere
    │   ├── RateLimited           429  a quota, ours or a provider's
    │   └── Overloaded            429  every candidate refused
    ├── Cancelled                 499  the caller gave up (logs only, nobody reads it)
    ├── ReaderTooSlow             499  the caller does not read its stream, and too much of it waits
    ├── Unavailable               503  base of the five below; try elsewhere, then later
    │   ├── NotReady              503  the instance still boots
    │   ├── NoInstance            503  no instance of the model can take the request
    │   ├── Draining              503  the instance takes no new work
    │   ├── CircuitOpen           503  the model failed again and again, and is left alone for a while
    │   └── OtherVocabulary       503  the answer to go on with was begun with another tokenizer
    ├── StreamBroken              502  base of the two below; Migration continues such a stream elsewhere
    │   ├── InstanceLost          502  the instance, or the way to it, died
    │   └── StreamIncomplete      502  the events ran out without a Finished
    ├── Timeout                   504  first token, between tokens, total, or a stall: no progress
    ├── Quarantined               422  the same request took engines with it, minutes ago
    └── EngineFailed              500  the engine failed on this one request
        ├── EngineDead            500  the engine is finished; its instance will be replaced
        ├── EngineFault           500  this request takes engines with it
        ├── AdapterFailed         500  the adapter that was asked for cannot be loaded; its base goes on
        └── ProviderRefused       502  a provider refuses our key or our model: the operator's mistake, not the caller's
"""

from typing import Any, ClassVar, Literal, Self

TimeoutPhase = Literal["first_token", "between_tokens", "total", "stall"]
RefusalReason = Literal["unauthorized", "forbidden", "unknown_model"]


class PenstockError(Exception):
    """Base of the tree.

    Attributes:
        message: One sentence for the user: what is wrong and what to do. Never an address, path or traceback.
        param: The request field it is about, in the caller's own notation (`messages[0].role`), or None.
        retry_after_s: Seconds after which a retry makes sense, or None when unknown.
        instance: The instance that raised it, or None.
    """

    status: ClassVar[int] = 500
    """HTTP status of the answer when nothing was sent yet."""
    retryable: ClassVar[bool] = False
    """Whether another instance may be tried, as long as no event was delivered."""
    transient: ClassVar[bool] = False
    """Whether the same request may succeed in the same place after a while (`retry_after_s`, where it is known)."""
    kind: ClassVar[str] = "server_error"
    """OpenAI's `error.type`."""
    code: ClassVar[str] = "internal_error"
    """OpenAI's `error.code`: a stable word that programs may test."""
    detail: str = ""
    """What code that is not ours said of it, with paths and addresses: for the log, never for a client."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        instance: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.instance = instance

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling keeps only args, and calls __init__, which subclasses extend.
        return _rebuild, (type(self), self.message, dict(self.__dict__))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), self.message))

    @property
    def public(self) -> str:
        """What a client may read of it: the message, or less where that holds the text of a foreign exception."""
        return self.message

    @property
    def private(self) -> str:
        """What only the log may say of it besides; empty: nothing."""
        hidden = "" if self.public == self.message else self.message
        return " ".join(filter(None, (hidden, self.detail)))

    def hiding(self, detail: str) -> Self:
        """Keeps what somebody else's code said of it for the log; returns the error itself."""
        self.detail = detail
        return self

    def at(self, instance: str) -> Self:
        """Names the instance that raised it, unless one is named already; returns the error itself."""
        if self.instance is None:
            self.instance = instance
        return self


def _rebuild(cls: type[PenstockError], message: str, fields: dict[str, Any]) -> PenstockError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(fields)
    return error


class InvalidRequest(PenstockError):
    """The request is wrong, and would be wrong anywhere."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"


class ContextOverflow(InvalidRequest):
    """The prompt, or the prompt plus `max_tokens`, does not fit the context.

    Attributes:
        prompt_tokens: Tokens of the prompt, or None when it was refused before it was counted.
        context_length: Tokens that fit, prompt and answer together.
    """

    code = "context_length_exceeded"

    def __init__(
        self, message: str, *, context_length: int, prompt_tokens: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.context_length = context_length
        self.prompt_tokens = prompt_tokens


class Unsupported(InvalidRequest):
    """The model or engine does not have the feature that the request needs."""

    code = "unsupported"


class AttachmentRefused(InvalidRequest):
    """An image or file of the request may not be fetched, or cannot be read."""

    code = "attachment_refused"


class ContentFiltered(InvalidRequest):
    """A provider's content filter does not let the prompt pass."""

    code = "content_filter"


class ConversationFull(InvalidRequest):
    """A conversation holds as much as it may: items, bytes, or turns that wait."""

    code = "conversation_full"


class Unauthorized(PenstockError):
    """No API key, or a wrong one."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class Forbidden(PenstockError):
    """The key is known and does not allow this."""

    status = 403
    kind = "permission_error"
    code = "forbidden"


class ModelNotFound(PenstockError):
    """No such model is served.

    Attributes:
        model: What was asked for.
        served: The names that are served.
    """

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str, served: tuple[str, ...]) -> None:
        names = ", ".join(served) or "none yet"
        super().__init__(f"The model {model[:200]!r} is not served here. Served: {names}.", param="model")
        self.model = model
        self.served = served


class InstanceNotFound(PenstockError):
    """The request names an instance that the model does not have: it never had it, or it is gone."""

    status = 404
    kind = "invalid_request_error"
    code = "instance_not_found"

    def __init__(self, model: str, named: str) -> None:
        super().__init__(f"The model {model[:200]!r} has no instance {named[:200]!r}.", param="instance")


class RequestTooLarge(PenstockError):
    """The body is over the limit.

    Attributes:
        limit_bytes: The largest body taken; None: a provider's limit, which it does not say.
    """

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"

    def __init__(self, limit_bytes: int | None) -> None:
        limit = "the provider's limit" if limit_bytes is None else f"the limit of {limit_bytes} bytes"
        super().__init__(f"The request body is over {limit}.")
        self.limit_bytes = limit_bytes


class Overload(PenstockError):
    """Too much work for now. Not a fault: it moves the request on, or asks the client to wait."""

    status = 429
    retryable = True
    transient = True
    kind = "rate_limit_error"
    code = "overloaded"


class QueueFull(Overload):
    """The instance's admission gate has no place left, running or queued."""

    code = "queue_full"


class QueueTimeout(Overload):
    """The request waited at the instance's admission gate for as long as it may.

    Its caller has waited long enough: it is not made to wait at another instance.
    """

    retryable = False
    code = "queue_timeout"


class RateLimited(Overload):
    """A quota is used up."""

    code = "rate_limited"


class Overloaded(Overload):
    """Every candidate refused."""


class Cancelled(PenstockError):
    """The caller stopped or killed the request before it ended by itself."""

    status = 499
    kind = "cancelled"
    code = "cancelled"


class ReaderTooSlow(PenstockError):
    """The caller did not read its stream, and so much waited for it that the stream was ended."""

    status = 499
    kind = "cancelled"
    code = "reader_too_slow"


class Unavailable(PenstockError):
    """Nothing can take the request now; later something may."""

    status = 503
    retryable = True
    transient = True
    kind = "service_unavailable_error"
    code = "unavailable"


class NotReady(Unavailable):
    """The instance has not finished booting."""

    code = "not_ready"


class NoInstance(Unavailable):
    """No instance of the model is there to take the request."""

    code = "no_instance"


class Draining(Unavailable):
    """The instance finishes what it has and takes nothing new."""

    code = "draining"


class CircuitOpen(Unavailable):
    """The model has failed so often that it is left alone for a while: waiting for it is not worth anybody's time."""

    transient = False
    code = "circuit_open"


class OtherVocabulary(Unavailable):
    """The token ids to go on from mean something else to this engine: its model has another tokenizer."""

    code = "other_vocabulary"


class StreamBroken(PenstockError):
    """The stream ended without its terminal event."""

    status = 502
    retryable = True
    transient = True
    code = "stream_broken"


LossCause = Literal["died", "silent", "hung", "ended", "stalled", "other"]
"""Why a stream broke: its instance or engine died; nothing is heard of it; its engine takes no step; it was told to end
(scale-down, upgrade, a node that goes away); the engine steps, and this stream does not advance."""


class InstanceLost(StreamBroken):
    """The instance died, or cannot be reached any more.

    Attributes:
        cause: Why.
    """

    code = "instance_lost"
    cause: LossCause = "other"

    def because(self, cause: LossCause) -> Self:
        """Says why; returns the error itself."""
        self.cause = cause
        return self

    @classmethod
    def given_up(cls, lost: PenstockError, why: str, refusal: PenstockError) -> Self:
        """What a stream fails with that broke and that nobody goes on with.

        Args:
            lost: What broke it.
            why: What could not be done: half a sentence.
            refusal: Why not.
        """
        message = f"{lost.public} {why}: {refusal.public}"
        given_up = cls(message, instance=lost.instance, retry_after_s=refusal.retry_after_s)
        return given_up.hiding(" ".join(filter(None, (lost.private, refusal.private))))


class StreamIncomplete(StreamBroken):
    """The engine ran out of events without a Finished."""

    code = "stream_incomplete"


class Timeout(PenstockError):
    """The engine took too long.

    Attributes:
        phase: What was waited for.
        timeout_s: How long, in seconds.
    """

    status = 504
    retryable = True
    transient = True
    kind = "timeout_error"
    code = "timeout"

    def __init__(self, phase: TimeoutPhase, timeout_s: float) -> None:
        what = {
            "first_token": "No token came",
            "between_tokens": "No further token came",
            "total": "The answer was not complete",
            "stall": "No progress was made",
        }
        super().__init__(f"{what[phase]} within {timeout_s:g} s.")
        self.phase: TimeoutPhase = phase
        self.timeout_s = timeout_s


def loss_cause(error: PenstockError) -> LossCause:
    """Why a stream broke that failed with this."""
    if isinstance(error, InstanceLost):
        return error.cause
    if isinstance(error, EngineDead):
        return "died"
    return "stalled" if isinstance(error, Timeout) else "other"


class EngineFailed(PenstockError):
    """The engine failed on this request; it goes on serving others."""

    code = "engine_failed"

    @property
    def public(self) -> str:
        """Only that it failed: the message is an exception's text."""
        return "The engine failed on this request."


class EngineDead(EngineFailed):
    """The engine is finished and serves nobody any more."""

    transient = True
    code = "engine_dead"

    @property
    def public(self) -> str:
        """Only that it failed: the message is an exception's text."""
        return "The engine failed and is being replaced. Try again."


class EngineFault(EngineFailed):
    """The engines that worked on this request died of it, one after another: it is tried no more."""

    code = "engine_fault"

    @property
    def public(self) -> str:
        """The message, which is ours."""
        return self.message


class AdapterFailed(EngineFailed):
    """The adapter that was asked for cannot be loaded here: only requests for it fail.

    Another instance may have its files.
    """

    retryable = True
    code = "adapter_failed"

    @property
    def public(self) -> str:
        """The message, which is ours."""
        return self.message


class ProviderRefused(EngineFailed):
    """A provider refuses our key, or does not know our model: for the operator to mend, whatever the caller sends.

    Attributes:
        reason: What it refuses.
    """

    status = 502
    code = "provider_refused"

    def __init__(self, message: str, *, reason: RefusalReason, instance: str | None = None) -> None:
        super().__init__(message, instance=instance)
        self.reason: RefusalReason = reason


class Quarantined(PenstockError):
    """Engines died of the same request minutes ago; it is not tried again for a while."""

    status = 422
    kind = "invalid_request_error"
    code = "quarantined"
