"""An agent loop with two tools on the demo model: `penstock serve`, and in another terminal `python agent_loop.py`.

Whatever happens to the engines meanwhile, the loop goes on: an answer that an engine began is finished by another.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import deployments
from engines import CompletionClient, CompletionModel, RetryingModel
from engines.completion import CompletedToolCall

QUESTIONS = [
    "what is the weather in Lisbon?",
    "what time is it in Oslo?",
    "count from 1 to 400",
    "count from 2 to 400",
]


def get_weather(city: str) -> dict[str, Any]:
    """Looks the weather up."""
    return {"temperature": 15 + len(city)}


def get_time(city: str) -> dict[str, Any]:
    """Looks the time up."""
    return {"time": f"10:{len(city):02}"}


TOOLS: dict[str, Callable[..., dict[str, Any]]] = {"get_weather": get_weather, "get_time": get_time}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMAS = [{"type": "function", "function": {"name": name, "parameters": CITY}} for name in TOOLS]


def run(call: CompletedToolCall) -> dict[str, str]:
    """Runs a tool; the message with its result."""
    result = TOOLS[call.name](**json.loads(call.arguments))
    return {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)}


async def answer(model: CompletionModel, question: str) -> str:
    """Asks until the model answers without a tool."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    while True:
        request = {"messages": messages, "tools": SCHEMAS, "sampling": {"temperature": 0}}
        choice = (await model.chat(request)).choices[0]
        if not choice.tool_calls:
            return choice.text
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
        messages += [{"role": "assistant", "tool_calls": calls}, *map(run, choice.tool_calls)]


async def main() -> None:
    """Asks everything, at once."""
    model = RetryingModel(CompletionClient(deployments.connect()).model("demo"))
    answers = await asyncio.gather(*(answer(model, question) for question in QUESTIONS))
    for question, said in zip(QUESTIONS, answers, strict=True):
        print(f"{question} {said}")


if __name__ == "__main__":
    asyncio.run(main())
