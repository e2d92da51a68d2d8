"""One Penstock behind another, by the Messages API: what the far model has thought is known again at both."""

from typing import Any

import pytest

from engines.events import (
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from engines.registry import EngineSpec, make_engine
from tests.deployments.http.anthropic.talking import ADD, ask, client
from tests.deployments.http.conftest import HELLO, Serving

SCRIPT = [
    ReasoningDelta("Let me see."),
    TextDelta("On it."),
    ToolCallStarted(0, "call_1", "add"),
    ToolCallArgumentsDelta(0, '{"a": 1}'),
    ToolCallFinished(0),
    Finished(("tool_calls",), Usage(10, 8, 4, 2), "far-0"),
]
ASKED: dict[str, Any] = {"model": "demo", "max_tokens": 100, "tools": [ADD], "thinking": {"type": "adaptive"}}


@pytest.mark.parametrize("display", ["summarized", "omitted"])
async def test_a_turn_with_tools_and_thinking_goes_to_the_far_model_and_back(serving: Serving, display: str) -> None:
    async with serving(SCRIPT) as far:
        options = {"base_url": f"{far.url}/v1"}
        near_engine = make_engine("near-0", EngineSpec(kind="anthropic", model="demo", options=options))
        async with serving(engines=[near_engine]) as near, client(near) as api:
            asked = {**ASKED, "thinking": {"type": "adaptive", "display": display}}
            async with api.messages.stream(**asked, messages=HELLO) as stream:
                first: Any = await stream.get_final_message()
            result = {"type": "tool_result", "tool_use_id": "call_1", "content": "two", "is_error": True}
            turns: list[Any] = [*HELLO, first.to_param(), {"role": "user", "content": [result]}]
            second: Any = await api.messages.create(**asked, messages=turns)
            # The near server lets nothing through that it has not signed, whatever the far one would say to it.
            forged = {"type": "thinking", "thinking": "Let me see.", "signature": ".0"}
            said = [*HELLO, {"role": "assistant", "content": [forged, {"type": "text", "text": "a"}]}, *HELLO]
            assert (await ask(near, messages=said)).status == 400
        _, again = far.engine.requests
    shown = "Let me see." if display == "summarized" else ""
    for message in (first, second):
        thinking, _, text, call = message.content
        assert (thinking.thinking, text.text, call.input, message.stop_reason) == (
            shown,
            "On it.",
            {"a": 1},
            "tool_use",
        )
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (6, 4)
    assert again.thinking.enabled
    _, turn, failed = again.messages
    assert (turn.reasoning_content, turn.content) == ("Let me see.", "On it.")
    assert (failed.role, failed.content, failed.is_error) == ("tool", "two", True)
