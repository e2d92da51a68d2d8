"""The contract, and every engine that speaks it inside one process. Knows nothing of Ray.

What a program imports from here is the contract; errors are in `engines.errors`, and an engine is made by the name of
its kind with `make_engine`. The names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from engines.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from engines.call_requests import (
        CallRequest,
        DetokenizeRequest,
        Embeddings,
        EmbedRequest,
        Tokenized,
        TokenizeRequest,
    )
    from engines.completion import Collector, Completion, collect
    from engines.context import Context
    from engines.contract import Capabilities, Engine, Load, Progress, PushEngine, Sink
    from engines.events import (
        Delta,
        Event,
        Finished,
        ReasoningDelta,
        RedactedReasoning,
        Started,
        TextDelta,
        TokenLogprob,
        ToolCallArgumentsDelta,
        ToolCallFinished,
        ToolCallStarted,
        Usage,
    )
    from engines.messages import Message, Tool
    from engines.registry import EngineSpec, make_engine
    from engines.requests import GenerateRequest, Guided, Resume, Sampling, Session

__all__ = [
    "CallRequest",
    "Capabilities",
    "Collector",
    "Completion",
    "Context",
    "Delta",
    "DetokenizeRequest",
    "EmbedRequest",
    "Embeddings",
    "Engine",
    "EngineSpec",
    "Event",
    "Finished",
    "GenerateRequest",
    "Guided",
    "Load",
    "Message",
    "Progress",
    "PushEngine",
    "ReasoningDelta",
    "RedactedReasoning",
    "Resume",
    "Sampling",
    "Session",
    "Sink",
    "Started",
    "TextDelta",
    "TokenLogprob",
    "TokenizeRequest",
    "Tokenized",
    "Tool",
    "ToolCallArgumentsDelta",
    "ToolCallFinished",
    "ToolCallStarted",
    "Usage",
    "collect",
    "make_engine",
]

_MODULES = {
    "CallRequest": "engines.call_requests",
    "DetokenizeRequest": "engines.call_requests",
    "Embeddings": "engines.call_requests",
    "EmbedRequest": "engines.call_requests",
    "Tokenized": "engines.call_requests",
    "TokenizeRequest": "engines.call_requests",
    "Collector": "engines.completion",
    "Completion": "engines.completion",
    "collect": "engines.completion",
    "Context": "engines.context",
    "Capabilities": "engines.contract",
    "Engine": "engines.contract",
    "Load": "engines.contract",
    "Progress": "engines.contract",
    "PushEngine": "engines.contract",
    "Sink": "engines.contract",
    "Delta": "engines.events",
    "Event": "engines.events",
    "Finished": "engines.events",
    "ReasoningDelta": "engines.events",
    "RedactedReasoning": "engines.events",
    "Started": "engines.events",
    "TextDelta": "engines.events",
    "TokenLogprob": "engines.events",
    "ToolCallArgumentsDelta": "engines.events",
    "ToolCallFinished": "engines.events",
    "ToolCallStarted": "engines.events",
    "Usage": "engines.events",
    "Message": "engines.messages",
    "Tool": "engines.messages",
    "EngineSpec": "engines.registry",
    "make_engine": "engines.registry",
    "GenerateRequest": "engines.requests",
    "Guided": "engines.requests",
    "Resume": "engines.requests",
    "Sampling": "engines.requests",
    "Session": "engines.requests",
}

__getattr__ = lazy_exports(__name__, _MODULES)
