"""What vLLM raises, in the words of the contract."""

import re

from jinja2 import TemplateError
from pydantic import ValidationError
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError

from engines.errors import ContextOverflow, EngineDead, EngineFailed, InvalidRequest, PenstockError, QueueFull
from engines.requests import Sampling

_TOO_LONG = frozenset({"input_tokens", "input_text"})
"""The names under which vLLM's tokenization refuses a prompt that is longer than the context."""
_CHECKS_REQUESTS = (
    "engines.",
    "vllm.entrypoints.",
    "vllm.inputs.",
    "vllm.parser.",
    "vllm.pooling_params",
    "vllm.reasoning.",
    "vllm.renderers.",
    "vllm.sampling_params",
    "vllm.tokenizers.",
    "vllm.tool_parsers.",
    "vllm.v1.engine.input_processor",
    "vllm.v1.sample.",
    "vllm.v1.structured_output.",
)
"""Modules that check requests: what their own lines raise is a sentence about the request, for its sender."""
_SOURCE_LINE = re.compile(r"\[\d+:\d+:\d+\] \S+:\d+: ")
"""Time, file and line of xgrammar's own source, in front of what it says."""


def refusal(error: Exception, *, param: str | None, context_length: int) -> PenstockError:
    """The error of a request that vLLM refused before it reached the engine.

    Args:
        error: What vLLM raised.
        param: The field that it is about, if vLLM does not name one.
        context_length: Of the model, in tokens.

    Returns:
        One that says what vLLM says on purpose: errors of its own for clients, pydantic's of its request, and what the
        modules that check requests raise. What else was raised on the way may hold anything, and is kept for the log.
    """
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineDead("The engine is finished.")
    if isinstance(error, RecursionError):
        return InvalidRequest("It is nested too deeply.", param=param)
    if isinstance(error, GracefulHTTPError):
        return QueueFull(error.message)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return InvalidRequest(f"{where or 'The request'}: {first['msg']}", param=where or param)
    if isinstance(error, (VLLMClientError, ValueError, TypeError)):
        if not _is_about_request(error):
            hidden = InvalidRequest("The engine does not take this request.", param=param)
            return hidden.hiding(f"{type(error).__name__}: {error}")
        # The text without vLLM's own suffix, which repeats the parameter and its value.
        message = without_source(str(error.args[0]) if error.args else str(error))
        name = getattr(error, "parameter", None)
        if name in _TOO_LONG or "maximum model length" in message:
            return ContextOverflow(message, context_length=context_length, param=param)
        if name in Sampling.model_fields:
            param = f"sampling.{name}"
        return InvalidRequest(message, param=param)
    return failure(error)


def _is_about_request(error: Exception) -> bool:
    """Whether vLLM, or a chat template, says on purpose what is wrong with the request."""
    if isinstance(error, VLLMClientError):
        # Whatever rendering a template raises is passed on in this class; only the template's own words are meant.
        causes = _causes(error)
        said = str(error.args[0]) if error.args else ""
        foreign = any(said == str(cause) for cause in causes if not isinstance(cause, VLLMClientError))
        return not foreign or any(isinstance(cause, TemplateError) for cause in causes)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    raised_in = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
    return raised_in.startswith(_CHECKS_REQUESTS)


def _causes(error: BaseException) -> list[BaseException]:
    """What an error was raised from, and that in turn."""
    causes: list[BaseException] = []
    cause = error.__cause__
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


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
