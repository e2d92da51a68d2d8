"""Thinking goes out with a signature, and comes back with it, or not at all."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.fleet_secret import FleetSecret
from engines.events import ReasoningDelta, RedactedReasoning
from tests.deployments.http.anthropic.talking import ask, client, events_of, said
from tests.deployments.http.conftest import HELLO, Serving

THOUGHT = [ReasoningDelta("Let me "), ReasoningDelta("see\u2026"), RedactedReasoning("opaque"), "Hi"]
TEXT = "Let me see\u2026"


def back(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation with a turn of the assistant's, and another of the user's."""
    return [*HELLO, {"role": "assistant", "content": list(blocks)}, *said({"type": "text", "text": "and?"})]


async def whole(served: Any, **fields: Any) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = (await ask(served, **fields)).json["content"]
    return content


async def streamed(served: Any, **fields: Any) -> list[dict[str, Any]]:
    """The blocks of a stream, put together as a client does."""
    blocks: list[dict[str, Any]] = []
    for event in events_of((await ask(served, stream=True, **fields)).body):
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            (name,) = delta.keys() - {"type"}
            block[name] = block.get(name, "") + delta[name]
    return blocks


Answer = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.mark.parametrize("answer", [whole, streamed])
@pytest.mark.parametrize("display", ["summarized", "omitted"])
async def test_it_goes_back_into_the_next_turn(serving: Serving, answer: Answer, display: str) -> None:
    asked = {"thinking": {"type": "adaptive", "display": display}}
    async with serving(THOUGHT) as served:
        blocks = await answer(served, **asked)
        thinking, redacted, text = blocks
        assert thinking["thinking"] == (TEXT if display == "summarized" else "")
        assert (redacted, text["text"]) == ({"type": "redacted_thinking", "data": "opaque"}, "Hi")
        assert (await ask(served, messages=back(*blocks), **asked)).status == 200
        turn = served.engine.requests[-1].messages[1]
    assert turn.for_template() == {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": TEXT,
        "redacted_reasoning": ["opaque"],
    }


async def test_whole_and_stream_sign_alike(serving: Serving) -> None:
    async with serving(THOUGHT) as served:
        assert (await whole(served))[0] == (await streamed(served))[0]


def changed(block: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**block, **fields}


async def test_what_was_not_signed_is_refused_by_name(serving: Serving) -> None:
    async with serving(THOUGHT) as served:
        shown, *_ = await whole(served)
        hidden, *_ = await whole(served, thinking={"type": "adaptive", "display": "omitted"})
        _, _, mac = shown["signature"].rpartition(".")
        bad = [
            changed(shown, thinking=TEXT + "!"),
            changed(shown, thinking=""),
            changed(shown, signature=""),
            changed(shown, signature=mac),
            changed(shown, signature=f".{mac[::-1]}"),
            changed(shown, signature=".\u2603\u2603"),
            changed(hidden, thinking=TEXT),
            changed(hidden, signature=f"AAAA.{mac}"),
            changed(hidden, signature=f"A.{mac}"),
            changed(hidden, signature="A" * 1_000_000),
            changed(hidden, signature=f"{'=' * 1000}.{mac}"),
        ]
        for block in bad:
            answer = await ask(served, messages=back({"type": "text", "text": "a"}, block))
            assert answer.status == 400, block
            assert answer.json["error"]["type"] == "invalid_request_error"
            assert answer.json["error"]["message"].startswith("messages.1.content.1.signature: it is not the signature")
        assert len(served.engine.requests) == 2
        await served.still_serves()


async def test_another_fleets_signature_is_none(serving: Serving) -> None:
    async with serving(THOUGHT) as served:
        block, *_ = await whole(served)
    async with serving(THOUGHT) as other:
        assert (await ask(other, messages=back(block))).status == 400


async def test_without_a_secret_nothing_is_begun(serving: Serving) -> None:
    async def unread() -> list[bytes]:
        return []

    async with serving(THOUGHT) as served:
        assert served.ingress._services is not None
        served.ingress._services.secret = FleetSecret(unread)
        for stream in (False, True):
            answer = await ask(served, stream=stream)
            assert (answer.status, answer.json["error"]["details"]["error_code"]) == (503, "secret_unavailable")
        assert not served.engine.requests


ASKED: list[tuple[dict[str, Any], bool, int | None]] = [
    ({"type": "adaptive"}, True, None),
    ({"type": "enabled", "budget_tokens": 50}, True, 50),
    ({"type": "disabled"}, False, None),
]


@pytest.mark.parametrize(("asked", "enabled", "budget"), ASKED, ids=[asked["type"] for asked, _, _ in ASKED])
async def test_how_much_is_asked_for(serving: Serving, asked: Any, enabled: bool, budget: int | None) -> None:
    async with serving(["Hi"]) as served, client(served) as api:
        await api.messages.create(model="demo", max_tokens=100, messages=HELLO, thinking=asked)
        thinking = served.engine.requests[0].thinking
    assert (thinking.enabled, thinking.budget_tokens) == (enabled, budget)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"thinking": {"type": "enabled"}}, "thinking: the type 'enabled' needs budget_tokens"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 9}}, "thinking: the type 'enabled'"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens: "),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens: thinking is part"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type: "),
        ({"thinking": {"type": "adaptive", "display": "all"}}, "thinking.display: "),
        (
            {"thinking": {"type": "adaptive"}, "messages": [*HELLO, {"role": "assistant", "content": "I"}]},
            "messages: an answer that is begun",
        ),
        ({"messages": said({"type": "thinking", "thinking": "a", "signature": "b"})}, "messages.0.content.0"),
        ({"messages": back({"type": "thinking", "thinking": "a"})}, "messages.1.content.0.signature: this field"),
    ],
)
async def test_what_is_wrong_with_it_is_named(serving: Serving, fields: dict[str, Any], says: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await ask(served, **fields)
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith(says), answer.json
