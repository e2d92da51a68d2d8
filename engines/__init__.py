"""The contract, and every engine that speaks it inside one process. Knows nothing of Ray.

What a program imports from here is the contract; errors are in `engines.errors`, and an engine is made by the name of
its kind with `make_engine`. The names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from engines.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from engines.agents.completion_client import CompletionClient
    from engines.agents.completion_model import ChatStream, CompletionModel
    from engines.agents.executor import ChatOptions, ChatResponse, LlmExecutor
    from engines.agents.retrying_model import RetryingModel
    from engines.agents.scripted_model import ScriptedModel
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
    from engines.contract import Capabilities, Engine, Load, Progress, PushEngine
    from engines.conversation.conversation import Conversation
    from engines.conversation.events import (
        ConversationEvent,
        FrameRefused,
        TurnDelta,
        TurnFailed,
        TurnFinished,
        TurnStarted,
    )
    from engines.conversation.frames import Append, Cancel, Configure, Delete, Frame, Item, Open, Respond, TurnSettings
    from engines.conversation.journal import ConversationLimits
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
    from engines.operators.breaker import Breaker, BreakerOptions
    from engines.operators.fallback import Fallback
    from engines.operators.link import link
    from engines.operators.migration import Migration, MigrationOptions
    from engines.operators.operator import Operator, OperatorOptions, Transparent
    from engines.operators.pool import Pool, PoolMember
    from engines.operators.recovery import Recovery, RecoveryOptions
    from engines.operators.retry import Retry, RetryOptions
    from engines.operators.timeout import TimeoutOptions, Timeouts
    from engines.operators.trace import Trace
    from engines.operators.trace_options import TraceOptions
    from engines.pooling_requests import Pooled, PoolingRequest, ScoreRequest, Scores
    from engines.registry import EngineSpec, make_engine
    from engines.requests import GenerateRequest, Guided, Resume, Sampling, Session, Thinking
    from engines.sink import Sink

__all__ = [
    "Append",
    "Breaker",
    "BreakerOptions",
    "CallRequest",
    "Cancel",
    "Capabilities",
    "ChatOptions",
    "ChatResponse",
    "ChatStream",
    "Collector",
    "Completion",
    "CompletionClient",
    "CompletionModel",
    "Configure",
    "Context",
    "Conversation",
    "ConversationEvent",
    "ConversationLimits",
    "Delete",
    "Delta",
    "DetokenizeRequest",
    "EmbedRequest",
    "Embeddings",
    "Engine",
    "EngineSpec",
    "Event",
    "Fallback",
    "Finished",
    "Frame",
    "FrameRefused",
    "GenerateRequest",
    "Guided",
    "Item",
    "LlmExecutor",
    "Load",
    "Message",
    "Migration",
    "MigrationOptions",
    "Open",
    "Operator",
    "OperatorOptions",
    "Pool",
    "PoolMember",
    "Pooled",
    "PoolingRequest",
    "Progress",
    "PushEngine",
    "ReasoningDelta",
    "Recovery",
    "RecoveryOptions",
    "RedactedReasoning",
    "Respond",
    "Resume",
    "Retry",
    "RetryOptions",
    "RetryingModel",
    "Sampling",
    "ScoreRequest",
    "Scores",
    "ScriptedModel",
    "Session",
    "Sink",
    "Started",
    "TextDelta",
    "Thinking",
    "TimeoutOptions",
    "Timeouts",
    "TokenLogprob",
    "TokenizeRequest",
    "Tokenized",
    "Tool",
    "ToolCallArgumentsDelta",
    "ToolCallFinished",
    "ToolCallStarted",
    "Trace",
    "TraceOptions",
    "Transparent",
    "TurnDelta",
    "TurnFailed",
    "TurnFinished",
    "TurnSettings",
    "TurnStarted",
    "Usage",
    "collect",
    "link",
    "make_engine",
]

_MODULES = {
    "CompletionClient": "engines.agents.completion_client",
    "ChatStream": "engines.agents.completion_model",
    "CompletionModel": "engines.agents.completion_model",
    "ChatOptions": "engines.agents.executor",
    "ChatResponse": "engines.agents.executor",
    "LlmExecutor": "engines.agents.executor",
    "RetryingModel": "engines.agents.retrying_model",
    "ScriptedModel": "engines.agents.scripted_model",
    "Breaker": "engines.operators.breaker",
    "BreakerOptions": "engines.operators.breaker",
    "Fallback": "engines.operators.fallback",
    "link": "engines.operators.link",
    "Migration": "engines.operators.migration",
    "MigrationOptions": "engines.operators.migration",
    "Operator": "engines.operators.operator",
    "OperatorOptions": "engines.operators.operator",
    "Transparent": "engines.operators.operator",
    "Pool": "engines.operators.pool",
    "PoolMember": "engines.operators.pool",
    "Recovery": "engines.operators.recovery",
    "RecoveryOptions": "engines.operators.recovery",
    "Retry": "engines.operators.retry",
    "RetryOptions": "engines.operators.retry",
    "TimeoutOptions": "engines.operators.timeout",
    "Timeouts": "engines.operators.timeout",
    "Trace": "engines.operators.trace",
    "TraceOptions": "engines.operators.trace_options",
    "CallRequest": "engines.call_requests",
    "DetokenizeRequest": "engines.call_requests",
    "Embeddings": "engines.call_requests",
    "EmbedRequest": "engines.call_requests",
    "Pooled": "engines.pooling_requests",
    "PoolingRequest": "engines.pooling_requests",
    "ScoreRequest": "engines.pooling_requests",
    "Scores": "engines.pooling_requests",
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
    "Sink": "engines.sink",
    "Conversation": "engines.conversation.conversation",
    "ConversationLimits": "engines.conversation.journal",
    "ConversationEvent": "engines.conversation.events",
    "FrameRefused": "engines.conversation.events",
    "TurnDelta": "engines.conversation.events",
    "TurnFailed": "engines.conversation.events",
    "TurnFinished": "engines.conversation.events",
    "TurnStarted": "engines.conversation.events",
    "Append": "engines.conversation.frames",
    "Cancel": "engines.conversation.frames",
    "Configure": "engines.conversation.frames",
    "Delete": "engines.conversation.frames",
    "Frame": "engines.conversation.frames",
    "Item": "engines.conversation.frames",
    "Open": "engines.conversation.frames",
    "Respond": "engines.conversation.frames",
    "TurnSettings": "engines.conversation.frames",
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
    "Thinking": "engines.requests",
}

__getattr__ = lazy_exports(__name__, _MODULES)
