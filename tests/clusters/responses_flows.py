"""What clients of the Responses API do, by OpenAI's own client, on the demo fleet."""

import asyncio
import json
from typing import Any

import openai

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
GREEDY: Any = {"model": "demo", "max_output_tokens": 1000, "temperature": 0}


async def all_flows(port: int, person: dict[str, Any]) -> dict[str, Any]:
    """Each flow's outcome.

    Args:
        port: The fleet's.
        person: The schema of a person, which one answer is held to.
    """
    seen: dict[str, Any] = {}
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0
    ) as client:
        responses: Any = client.responses
        whole = await responses.create(**GREEDY, input="count from 3 to 7")
        seen["whole"] = (whole.output_text.strip(), whole.status)
        counted = await responses.input_tokens.count(model="demo", input="count from 3 to 7")
        seen["counted"] = counted.input_tokens == whole.usage.input_tokens

        async with responses.stream(**GREEDY, input="count from 4 to 40") as stream:
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        seen["stream"] = "".join(pieces).strip()
        seen["stream's end"] = (len(pieces) > 10, final.output_text == "".join(pieces), final.status)

        asked = {"role": "user", "content": "what is the weather in Lisbon?"}
        called = await responses.create(**GREEDY, input=[asked], tools=[WEATHER])
        (call,) = [item for item in called.output if item.type == "function_call"]
        seen["call"] = (call.name, json.loads(call.arguments), called.status)
        output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'}
        turns = [asked, *[item.to_dict() for item in called.output], output]
        seen["tool answer"] = (await responses.create(**GREEDY, input=turns, tools=[WEATHER])).output_text.strip()
        stored = await responses.create(
            **GREEDY, input=[output], previous_response_id=called.id, tools=[WEATHER], store=True
        )
        seen["stored answer"] = stored.output_text.strip()
        forced = {"type": "function", "name": "get_weather"}
        held = await responses.create(**GREEDY, input="hello", tools=[WEATHER], tool_choice=forced)
        seen["forced"] = held.output[-1].type

        look = {"format": {"type": "json_schema", "name": "person", "schema": person}}
        seen["person"] = (await responses.create(**GREEDY, input="describe Alice as json", text=look)).output_text

        thought = await responses.create(
            **GREEDY, input="count from 3 to 9", reasoning={"effort": "low"}, include=["reasoning.encrypted_content"]
        )
        reasoning, *said = thought.output
        seen["thinking"] = (bool(reasoning.content[0].text.strip()), thought.output_text.strip())
        sealed = {**reasoning.to_dict(), "content": None}
        turns = [
            {"role": "user", "content": "count from 3 to 9"},
            sealed,
            *[item.to_dict() for item in said],
            {"role": "user", "content": "count from 4 to 6"},
        ]
        seen["thought before"] = (await responses.create(**GREEDY, input=turns)).output_text.strip()

        again = await responses.retrieve(final.id)
        seen["read again"] = again.output_text == final.output_text
        rest = [event async for event in await responses.retrieve(final.id, stream=True, starting_after=3)]
        # The events of its beginning are response.created, in_progress, output_item.added, content_part.added.
        said_again = "".join(event.delta for event in rest if event.type == "response.output_text.delta")
        seen["its stream"] = (said_again == final.output_text, rest[0].sequence_number, rest[-1].type)
        await responses.delete(final.id)
        try:
            await responses.retrieve(final.id)
        except openai.NotFoundError as error:
            seen["deleted"] = error.code

        conversation = await client.conversations.create(items=[asked], metadata={"topic": "weather"})
        turns = {**GREEDY, "tools": [WEATHER], "conversation": conversation.id}
        first = await responses.create(**turns)
        (call,) = [item for item in first.output if item.type == "function_call"]
        second = await responses.create(**turns, input=[{**output, "call_id": call.call_id}])
        seen["conversation's answer"] = second.output_text.strip()
        listed = [item.type async for item in client.conversations.items.list(conversation.id, order="asc")]
        seen["conversation's items"] = [kind for kind in listed if kind != "reasoning"]
        await client.conversations.delete(conversation.id)

        waiting = await responses.create(**GREEDY, input="count from 3 to 30", background=True)
        seen["in the background"] = waiting.status
        async with asyncio.timeout(60):
            while waiting.status in ("queued", "in_progress"):
                await asyncio.sleep(0.05)
                waiting = await responses.retrieve(waiting.id)
        seen["from the background"] = (waiting.status, waiting.output_text.strip())
        stream = await responses.create(**GREEDY, input="count from 4 to 40", background=True, stream=True)
        read: list[Any] = []
        async for event in stream:
            read.append(event)
            if len(read) == 10:
                break
        await stream.close()
        id = read[0].response.id
        rest = await responses.retrieve(id, stream=True, starting_after=read[-1].sequence_number)
        read += [event async for event in rest]
        said = "".join(event.delta for event in read if event.type == "response.output_text.delta")
        numbers = [event.sequence_number for event in read]
        seen["resumed"] = (said.strip(), numbers == list(range(len(numbers))), read[-1].response.output_text == said)
        long = await responses.create(**GREEDY, input="count from 1 to 900", background=True)
        cancelled = await responses.cancel(long.id)
        seen["cancelled"] = (cancelled.status, (await responses.cancel(long.id)).to_dict() == cancelled.to_dict())

        short = await responses.create(**{**GREEDY, "max_output_tokens": 5}, input="count from 1 to 100")
        seen["short"] = (short.usage.output_tokens, short.status, short.incomplete_details.reason)
    return seen
