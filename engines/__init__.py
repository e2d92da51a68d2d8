"""The contract, and every engine that speaks it inside one process. Knows nothing of Ray.

What a program imports from here is the contract; errors are in `engines.errors`, and an engine is made by the name of
its kind with `make_engine`.
"""

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
