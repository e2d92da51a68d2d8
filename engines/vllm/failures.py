"""What vLLM raises, in the words of the contract."""

import re

from pydantic import ValidationError
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError

from engines.errors import ContextOverflow, EngineDead, EngineFailed, InvalidRequest, PenstockError, QueueFull
from engines.requests import Sampling

_TOO_LONG = frozenset({"input_tokens", "input_text"})
"""The names under which vLLM's tokenization refuses a prompt that is longer than the context."""
_SOURCE_LINE = re.compile(r"\[\d+:\d+:\d+\] \S+:\d+: ")
"""Time, file and line of xgrammar's own source, in front of what it says."""


def refusal(error: Exception, *, param: str | None, context_length: int) -> PenstockError:
    """The error of a request that vLLM refused before it reached the engine.

    Args:
        error: What vLLM raised.
        param: The field that it is about, if vLLM does not name one.
        context_length: Of the model, in tokens.
    """
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineDead("The engine is finished.")
    if isinstance(error, GracefulHTTPError):
        return QueueFull(error.message)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return InvalidRequest(f"{where or 'The request'}: {first['msg']}", param=where or param)
    if isinstance(error, (VLLMClientError, ValueError, TypeError)):
        # The text without vLLM's own suffix, which repeats the parameter and its value.
        message = without_source(str(error.args[0]) if error.args else str(error))
        name = getattr(error, "parameter", None)
        if name in _TOO_LONG or "maximum model length" in message:
            return ContextOverflow(message, context_length=context_length, param=param)
        if name in Sampling.model_fields:
            param = f"sampling.{name}"
        return InvalidRequest(message, param=param)
    return failure(error)


def without_source(message: str) -> str:
    """What xgrammar says, without where in its source it says so."""
    return _SOURCE_LINE.sub("", message)


def failure(error: BaseException) -> PenstockError:
    """The error of a request that failed inside the engine."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineDead("The engine died.")
    return EngineFailed(f"The engine failed on this request: {type(error).__name__}: {error}")
