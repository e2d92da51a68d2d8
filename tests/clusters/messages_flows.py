"""What clients of the Messages API do, by Anthropic's own client, on the demo fleet."""

from typing import Any

import anthropic

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
GREEDY: Any = {"model": "demo", "max_tokens": 1000, "extra_body": {"temperature": 0}}


def user(text: str) -> list[Any]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def text_of(message: Any) -> str:
    """What an answer says."""
    return "".join(block.text for block in message.content if block.type == "text").strip()


async def all_flows(port: int, person: dict[str, Any]) -> dict[str, Any]:
    """Each flow's outcome.

    Args:
        port: The fleet's.
        person: The schema of a person, which one answer is held to.
    """
    seen: dict[str, Any] = {}
    async with anthropic.AsyncAnthropic(
        base_url=f"http://127.0.0.1:{port}", api_key="none", timeout=120, max_retries=0
    ) as client:
        messages = client.messages
        whole = await messages.create(**GREEDY, messages=user("count from 3 to 7"))
        seen["whole"] = (text_of(whole), whole.stop_reason)
        counted = await messages.count_tokens(model="demo", messages=user("count from 3 to 7"))
        seen["counted"] = counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)

        async with messages.stream(**GREEDY, messages=user("count from 4 to 40")) as stream:
            pieces = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        seen["stream"] = "".join(pieces)
        seen["stream's end"] = (len(pieces) > 10, text_of(final) == seen["stream"], final.stop_reason)

        asked = user("what is the weather in Lisbon?")
        async with messages.stream(**GREEDY, messages=asked, tools=[WEATHER]) as stream:
            called = await stream.get_final_message()
        (call,) = [block for block in called.content if block.type == "tool_use"]
        seen["call"] = (call.name, call.input, called.stop_reason)
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 21}'}
        turns: list[Any] = [*asked, called.to_param(), {"role": "user", "content": [result]}]
        seen["tool answer"] = text_of(await messages.create(**GREEDY, messages=turns, tools=[WEATHER]))
        forced: Any = {"type": "tool", "name": "get_weather"}
        held = await messages.create(**GREEDY, messages=user("hello"), tools=[WEATHER], tool_choice=forced)
        seen["forced"] = (held.content[-1].type, held.stop_reason)

        config: Any = {"format": {"type": "json_schema", "schema": person}}
        seen["person"] = text_of(
            await messages.create(**GREEDY, messages=user("describe Alice as json"), output_config=config)
        )

        asked = user("count from 3 to 9")
        async with messages.stream(**GREEDY, messages=asked, thinking={"type": "adaptive"}) as stream:
            thought = await stream.get_final_message()
        (thinking,) = [block for block in thought.content if block.type == "thinking"]
        seen["thinking"] = (bool(thinking.thinking.strip()), text_of(thought))
        turns = [*asked, thought.to_param(), *user("count from 4 to 6")]
        seen["thought before"] = text_of(await messages.create(**GREEDY, messages=turns))
        turns[1]["content"][0] = {"type": "thinking", "thinking": "something else", "signature": thinking.signature}
        seen["not thought"] = await _refused(client, messages=turns)
        budget = {"type": "enabled", "budget_tokens": 100}
        seen["budget"] = await _refused(client, messages=asked, thinking=budget)

        stopped = await messages.create(**GREEDY, messages=user("count from 1 to 9"), stop_sequences=[" 5"])
        seen["stopped"] = (text_of(stopped), stopped.stop_reason, stopped.stop_sequence)
        short = await messages.create(**{**GREEDY, "max_tokens": 5}, messages=user("count from 1 to 100"))
        seen["short"] = (short.usage.output_tokens, short.stop_reason)
    return seen


async def _refused(client: anthropic.AsyncAnthropic, **fields: Any) -> str:
    """The name of the field that an error names."""
    try:
        await client.messages.create(**GREEDY, **fields)
    except anthropic.BadRequestError as error:
        return str(error.api_message).partition(": ")[0]
    return ""
