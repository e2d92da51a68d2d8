"""What programs on OpenAI's Agents SDK do, by the Responses API, on the demo fleet."""

from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    RunResultStreaming,
    SQLiteSession,
    function_tool,
    handoff,
)
from agents.extensions.handoff_filters import remove_all_tools
from openai.types.shared import Reasoning
from pydantic import BaseModel

UNTRACED = RunConfig(tracing_disabled=True)
"""Traces would go to OpenAI."""
WEATHER = "what is the weather in Lisbon?"


class Person(BaseModel):
    """What one answer is."""

    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return '{"temperature": 21}'


def kinds(run: RunResult | RunResultStreaming) -> list[str]:
    """What a run was made of."""
    return [item.type.removesuffix("_item") for item in run.new_items]


async def all_flows(port: int) -> dict[str, Any]:
    """Each flow's outcome."""
    seen: dict[str, Any] = {}
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0
    ) as client:
        model = OpenAIResponsesModel("demo", client)

        def agent(name: str = "helper", **changes: Any) -> Agent[None]:
            settings = ModelSettings(temperature=0, max_tokens=1000, **changes.pop("settings", {}))
            return Agent(name=name, model=model, model_settings=settings, **({"tools": [get_weather]} | changes))

        async def run(starting: Agent[None], text: str, **options: Any) -> RunResult:
            return await Runner.run(starting, text, run_config=UNTRACED, max_turns=4, **options)

        whole = await run(agent(instructions="You are a helpful assistant."), WEATHER)
        seen["whole"] = (whole.final_output, kinds(whole))

        streamed = Runner.run_streamed(agent(), WEATHER, run_config=UNTRACED, max_turns=4)
        events = [event async for event in streamed.stream_events()]
        raw = [event.data for event in events if event.type == "raw_response_event"]
        seen["streamed"] = (
            "".join(event.delta for event in raw if event.type == "response.function_call_arguments.delta"),
            "".join(event.delta for event in raw if event.type == "response.output_text.delta"),
            [event.name for event in events if event.type == "run_item_stream_event"],
            streamed.final_output,
        )

        person = await run(agent(tools=[], output_type=Person), "describe Alice as json")
        seen["person"] = person.final_output

        # The model knows nothing of agents: it must hand over, and the next one is not shown that it did.
        weather = handoff(agent("forecaster"), input_filter=remove_all_tools)
        triage = agent("triage", tools=[], handoffs=[weather], settings={"tool_choice": "required"})
        handed = await run(triage, WEATHER)
        transfer = handed.raw_responses[0].output[-1].to_dict()["name"]
        seen["handed over"] = (transfer, handed.last_agent.name, handed.final_output, kinds(handed))

        session = SQLiteSession("one")
        first = await run(agent(), WEATHER, session=session)
        second = await run(agent(), "count from 4 to 6", session=session)
        seen["session"] = (first.final_output, second.final_output)
        thinking = agent(settings={"reasoning": Reasoning(effort="low")})
        third = await run(thinking, WEATHER, session=session)
        fourth = await run(thinking, "count from 3 to 9", session=session)
        seen["thinking"] = (third.final_output.strip(), fourth.final_output.strip(), kinds(fourth))
        session.close()

        first = await run(agent(), WEATHER, auto_previous_response_id=True)
        second = await run(agent(), "count from 4 to 6", previous_response_id=first.last_response_id)
        seen["previous response"] = (first.final_output, second.final_output)
        inputs = [response.usage.input_tokens for response in [*first.raw_responses, *second.raw_responses]]
        seen["previous response's input"] = inputs == sorted(set(inputs))

        kept = OpenAIConversationsSession(openai_client=client)
        first = await run(agent(), WEATHER, session=kept)
        second = await run(agent(), "count from 4 to 6", session=kept)
        seen["conversation"] = (first.final_output, second.final_output)
        seen["conversation's items"] = [item["type"] for item in await kept.get_items()]
        await kept.clear_session()
    return seen
