"""What programs on LangChain do, by its own client of OpenAI's APIs, on the demo fleet."""

from typing import Any

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return '{"temperature": 21}'


def chat_model(port: int, **settings: Any) -> ChatOpenAI:
    """The demo model, greedy."""
    return ChatOpenAI(
        model="demo",
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="none",  # type: ignore[arg-type]
        temperature=0,
        stream_usage=True,
        timeout=120,
        max_retries=0,
        **settings,
    )


def completion(port: int, prompt: str) -> str:
    """What LangChain's client of the Completions API gets."""
    model = OpenAI(
        model="demo",
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="none",  # type: ignore[arg-type]
        temperature=0,
        max_retries=0,
    )
    return model.invoke(prompt)


def all_flows(model: ChatOpenAI) -> dict[str, Any]:
    """Each flow's outcome, by whichever API the model is asked."""
    seen: dict[str, Any] = {}
    whole = model.invoke("count from 3 to 7")
    usage = whole.usage_metadata
    assert usage is not None
    seen["whole"] = (whole.text, usage["output_tokens"])

    pieces = list(model.stream("count from 4 to 40"))
    stream = sum(pieces[1:], pieces[0])
    assert isinstance(stream, AIMessageChunk) and stream.usage_metadata is not None
    seen["stream"] = stream.text
    seen["stream's end"] = (len(pieces) > 10, stream.usage_metadata["output_tokens"])

    asked = HumanMessage("what is the weather in Lisbon?")
    armed = model.bind_tools([get_weather])
    called = armed.invoke([asked])
    seen["call"] = [(call["name"], call["args"]) for call in called.tool_calls]
    results = [get_weather.invoke(call) for call in called.tool_calls]
    assert all(isinstance(result, ToolMessage) for result in results)
    seen["tool answer"] = armed.invoke([asked, called, *results]).text

    pieces = list(armed.stream([asked]))
    streamed = sum(pieces[1:], pieces[0])
    results = [get_weather.invoke(call) for call in streamed.tool_calls]
    seen["streamed call's answer"] = armed.invoke([asked, streamed, *results]).text
    forced = model.bind_tools([get_weather], tool_choice="get_weather", strict=True)
    seen["forced"] = [call["name"] for call in forced.invoke("hello").tool_calls]

    for method in ("json_schema", "function_calling", "json_mode"):
        held = model.with_structured_output(Person, method=method)
        seen[method] = held.invoke("describe Alice as json")
    *_, seen["streamed schema"] = model.with_structured_output(Person).stream("describe Alice as json")

    several = model.batch([f"count from {first} to {first + 3}" for first in range(3, 7)])
    seen["batch"] = [answer.text for answer in several]
    before = [("system", "Be brief."), ("user", "count from 3 to 5"), ("assistant", "3 4 5")]
    seen["turns"] = model.invoke([*before, ("user", "count from 7 to 9")]).text
    return seen


def responses_flows(port: int) -> dict[str, Any]:
    """What only the Responses API has: thoughts that go back, and turns that the server remembers."""
    seen: dict[str, Any] = {}
    model = chat_model(port, use_responses_api=True, output_version="responses/v1")
    asked = HumanMessage("count from 3 to 9")
    thought = model.bind(reasoning={"effort": "low"}).invoke([asked])
    seen["thinking"] = ([block["type"] for block in thought.content], thought.text.strip())
    seen["thought before"] = model.invoke([asked, thought, HumanMessage("count from 4 to 6")]).text

    kept = chat_model(port, use_previous_response_id=True, store=True)
    armed = kept.bind_tools([get_weather])
    asked = HumanMessage("what is the weather in Lisbon?")
    called = armed.invoke([asked])
    results = [get_weather.invoke(call) for call in called.tool_calls]
    seen["previous response"] = armed.invoke([asked, called, *results]).text
    return seen
