"""The demo fleet on real vLLM, started as a person starts it and asked by the clients that programs
ask with: OpenAI's own, Anthropic's, LangChain's, and OpenAI's agents."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from clusters.chaos.targets import engine_pids
from tests.benchmarks import kv_prediction
from tests.chaos.exact_kills import check_kills
from tests.clusters import messages_flows, responses_flows
from tests.clusters.conftest import ROOT, Penstock, Terminal, ask, free_port
from tests.clusters.realtime_flows import Counting, all_flows
from tests.lazily import lazily, needs
from tests.metric_text import samples

needs("vllm", "the demo fleet runs on vLLM")

langchain_flows = lazily("tests.clusters.langchain_flows")
openai_agents_flows = lazily("tests.clusters.openai_agents_flows")

VLLM_BOOT_S = 900.0
"""One boot takes a minute on two free cores, and all of a fleet's come at once."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Served:
    """A running `penstock serve` without a fleet file."""

    port: int
    penstock: Penstock


@pytest.fixture(scope="module")
def served(shared_terminal: Terminal) -> Iterator[Served]:
    port = free_port()
    penstock = shared_terminal.start("serve", "--port", str(port))
    penstock.wait_for("Ctrl-C", VLLM_BOOT_S)
    yield Served(port, penstock)
    assert penstock.interrupt() == 0, penstock.output


@pytest.fixture(scope="module")
def port(served: Served) -> int:
    return served.port


@pytest.fixture
def client(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def counted(first: int, last: int) -> str:
    return " ".join(str(number) for number in range(first, last + 1))


def test_streams_a_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=user("count from 3 to 30"),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == counted(3, 30)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 27
    assert len(chunks) > 10, "the answer came in pieces"


def test_counts_to_500_exactly(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=user("count from 1 to 500"), temperature=0)

    assert answer.choices[0].message.content == counted(1, 500)
    assert answer.choices[0].finish_reason == "stop"


def test_reads_stored_answers_again(client: openai.OpenAI) -> None:
    asked = {"model": "demo", "temperature": 0, "store": True, "metadata": {"kind": "counting"}}
    whole = client.chat.completions.create(messages=user("count from 3 to 9"), **asked)  # type: ignore[call-overload]
    stream = client.chat.completions.create(messages=user("count from 4 to 8"), stream=True, **asked)  # type: ignore[call-overload]
    (id,) = {chunk.id for chunk in stream}

    said = [
        completion.choices[0].message.content
        for completion in client.chat.completions.list(metadata={"kind": "counting"})
    ]
    assert said == [counted(3, 9), counted(4, 8)]
    again = client.chat.completions.retrieve(whole.id)
    assert (again.choices, again.usage) == (whole.choices, whole.usage)
    assert [message.content for message in client.chat.completions.messages.list(id)] == ["count from 4 to 8"]
    for completion in client.chat.completions.list(limit=1):
        client.chat.completions.delete(completion.id)
    assert client.chat.completions.list().data == []


def test_calls_a_tool_and_reads_its_result(client: openai.OpenAI) -> None:
    messages = user("what is the weather in Paris?")
    first = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER], temperature=0)
    calls = first.choices[0].message.tool_calls

    assert first.choices[0].finish_reason == "tool_calls"
    assert calls is not None
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}

    result = {"role": "tool", "tool_call_id": calls[0].id, "content": json.dumps({"temperature": 21})}
    second = client.chat.completions.create(
        model="demo",
        messages=[*messages, first.choices[0].message.model_dump(exclude_none=True), result],
        tools=[WEATHER],
        temperature=0,
    )
    assert "21" in (second.choices[0].message.content or "")


def test_streams_a_tool_call(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=user("what is the weather in Paris?"), tools=[WEATHER], temperature=0, stream=True
    )
    deltas = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or ()]

    assert deltas[0].function is not None
    assert deltas[0].function.name == "get_weather"
    arguments = "".join(delta.function.arguments or "" for delta in deltas if delta.function is not None)
    assert json.loads(arguments) == {"city": "Paris"}


def test_thinks_where_it_is_asked_to(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=user("count from 3 to 9"),
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    message = answer.choices[0].message

    assert (message.content or "").strip() == counted(3, 9)
    assert message.model_dump()["reasoning_content"].strip()


def test_answers_json_by_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=user("describe Alice as json"),
        temperature=0,
        max_tokens=128,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}},
    )

    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_reports_logprobs_and_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=user("count from 1 to 5"), temperature=0, n=2, logprobs=True, top_logprobs=3
    )

    assert [choice.message.content for choice in answer.choices] == [counted(1, 5)] * 2
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    *text, end = [token.token for token in logprobs.content]
    assert "".join(text) == counted(1, 5)
    assert end == "<|im_end|>"
    assert all(len(token.top_logprobs) == 3 for token in logprobs.content)


async def test_answers_many_at_once_each_with_its_own(port: int) -> None:
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300, max_retries=0)
    ranges = [(first, first + 40) for first in range(100, 132)]

    async def count(first: int, last: int) -> tuple[str | None, str]:
        raw = await client.chat.completions.with_raw_response.create(
            model="demo", messages=user(f"count from {first} to {last}"), temperature=0
        )
        return raw.parse().choices[0].message.content, raw.headers["x-penstock-instance"]

    answers = await asyncio.gather(*(count(*span) for span in ranges))

    assert [text for text, _ in answers] == [counted(*span) for span in ranges]
    instances = Counter(instance for _, instance in answers)
    assert len(instances) == 2, f"both instances worked: {instances}"


def test_keeps_a_session_on_one_instance(client: openai.OpenAI) -> None:
    instances = {
        client.chat.completions.with_raw_response.create(
            model="demo", messages=user("hello"), max_tokens=2, extra_headers={"x-session-id": "one"}
        ).headers["x-penstock-instance"]
        for _ in range(8)
    }

    assert len(instances) == 1


def test_conversations_find_in_the_caches_what_the_routers_expect(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    before = kv_prediction.cached_tokens(url, "demo")
    for conversation in range(12):
        kv_prediction.talk(url, "demo", conversation)
    after = kv_prediction.cached_tokens(url, "demo")
    predicted, real = (after[kind] - before[kind] for kind in ("predicted", "real"))
    # Which turns meet on which instance is chance; that they find their conversation there is not.
    assert real > 3000
    assert 0.95 * real < predicted < 1.05 * real


def test_answers_a_handle_of_another_program(served: Served) -> None:
    """The lines that `penstock serve` prints, in a program of its own."""
    address = re.search(r'ray.init\("([^"]+)"\)', served.penstock.output)
    assert address is not None, served.penstock.output
    program = f"""
import os
os.environ.update(RAY_AUTH_MODE="token", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
import ray
from ray import serve
from engines.errors import ModelNotFound
from engines.events import Finished, Started

ray.init({address[1]!r}, log_to_driver=False)
fleet = serve.get_app_handle("penstock")
request = {{"model": "demo", "messages": [{{"role": "user", "content": "count from 1 to 5"}}]}}
request["sampling"] = {{"temperature": 0}}
print(fleet.complete.remote(request).result().text)
first, *deltas, last = fleet.options(stream=True).generate.remote(request)
assert isinstance(first, Started) and isinstance(last, Finished), (first, last)
print("".join(delta.text for delta in deltas))
try:
    fleet.complete.remote(request | {{"model": "demi"}}).result()
except ModelNotFound as error:
    print(error.served)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT, env=dict(os.environ)
    )

    assert done.stdout.splitlines()[-3:] == [counted(1, 5), counted(1, 5), "('demo',)"], done.stderr


async def test_converses_over_the_realtime_api(port: int) -> None:
    seen = await all_flows(port)
    assert seen.pop("cached") > 0
    assert seen == {
        "first": counted(3, 7),
        "second": counted(4, 6),
        "call": ("get_weather", {"city": "Lisbon"}),
        "tool answer": "The temperature is 21 degrees.",
        "beside": counted(1, 3),
        "cancelled": ("cancelled", "client_cancelled"),
        "early": counted(7, 9),
        "error": "item_id",
        "last": counted(2, 4),
    }


async def test_answers_over_the_messages_api(port: int) -> None:
    seen = await messages_flows.all_flows(port, PERSON)
    person = json.loads(seen.pop("person"))
    assert set(person) == {"name", "age"}
    assert seen == {
        "whole": (counted(3, 7), "end_turn"),
        "counted": True,
        "stream": counted(4, 40),
        "stream's end": (True, True, "end_turn"),
        "call": ("get_weather", {"city": "Lisbon"}, "tool_use"),
        "tool answer": "The temperature is 21 degrees.",
        "forced": ("tool_use", "tool_use"),
        "thinking": (True, counted(3, 9)),
        "thought before": counted(4, 6),
        "not thought": "messages.1.content.0.signature",
        "budget": "thinking.budget_tokens",
        "stopped": (counted(1, 4), "stop_sequence", " 5"),
        "short": (5, "max_tokens"),
    }


async def test_answers_over_the_responses_api(port: int) -> None:
    seen = await responses_flows.all_flows(port, PERSON)
    person = json.loads(seen.pop("person"))
    assert set(person) == {"name", "age"}
    assert seen == {
        "whole": (counted(3, 7), "completed"),
        "counted": True,
        "stream": counted(4, 40),
        "stream's end": (True, True, "completed"),
        "call": ("get_weather", {"city": "Lisbon"}, "completed"),
        "tool answer": "The temperature is 21 degrees.",
        "stored answer": "The temperature is 21 degrees.",
        "conversation's answer": "The temperature is 21 degrees.",
        "conversation's items": ["message", "function_call", "function_call_output", "message"],
        "forced": "function_call",
        "thinking": (True, counted(3, 9)),
        "thought before": counted(4, 6),
        "read again": True,
        "its stream": (True, 4, "response.completed"),
        "deleted": "response_not_found",
        "in the background": "queued",
        "from the background": ("completed", counted(3, 30)),
        "resumed": (counted(4, 40), True, True),
        "cancelled": ("cancelled", True),
        "short": (5, "incomplete", "max_output_tokens"),
    }


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # Of what LangChain does with a parsed answer.
@pytest.mark.parametrize("settings", [{}, {"use_responses_api": True}], ids=["chat", "responses"])
def test_answers_langchain(port: int, settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    alice = langchain_flows.Person(name="Alice", age=21)
    assert langchain_flows.all_flows(langchain_flows.chat_model(port, **settings)) == {
        "whole": (counted(3, 7), 6),
        "stream": counted(4, 40),
        "stream's end": (True, 38),
        "call": [("get_weather", {"city": "Lisbon"})],
        "tool answer": "The temperature is 21 degrees.",
        "streamed call's answer": "The temperature is 21 degrees.",
        "forced": ["get_weather"],
        "json_schema": alice,
        "function_calling": alice,
        "json_mode": alice,
        "streamed schema": alice,
        "batch": [counted(first, first + 3) for first in range(3, 7)],
        "turns": counted(7, 9),
    }


def test_answers_langchain_with_what_it_remembers(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    assert langchain_flows.responses_flows(port) == {
        "thinking": (["reasoning", "text"], counted(3, 9)),
        "thought before": counted(4, 6),
        "previous response": "The temperature is 21 degrees.",
    }
    prompt = "<|im_start|>user\ncount from 3 to 7<|im_end|>\n<|im_start|>assistant\n"
    assert langchain_flows.completion(port, prompt) == counted(3, 7)


async def test_runs_openais_agents(port: int) -> None:
    seen = await openai_agents_flows.all_flows(port)
    said = "The temperature is 21 degrees."
    assert seen == {
        "whole": (said, ["tool_call", "tool_call_output", "message_output"]),
        "streamed": ('{"city": "Lisbon"}', said, ["tool_called", "tool_output", "message_output_created"], said),
        "person": openai_agents_flows.Person(name="Alice", age=21),
        "handed over": (
            "transfer_to_forecaster",
            "forecaster",
            said,
            ["tool_call", "tool_call_output", "message_output"],
        ),
        "session": (said, counted(4, 6)),
        "thinking": (said, counted(3, 9), ["reasoning", "message_output"]),
        "previous response": (said, counted(4, 6)),
        "previous response's input": True,
        "conversation": (said, counted(4, 6)),
        "conversation's items": [
            "message",
            "function_call",
            "function_call_output",
            "message",
            "message",
            "message",
        ],
    }


def test_the_terminal_chat_asks_and_prints(served: Served) -> None:
    chat = subprocess.run(
        [sys.executable, ROOT / "examples" / "realtime_chat.py", f"http://127.0.0.1:{served.port}/v1", "demo"],
        input="count from 3\nto 5\n\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert chat.stdout.strip() == counted(3, 5)


def test_tokenizes_there_and_back(port: int) -> None:
    status, tokens = ask(port, "/tokenize", {"model": "demo", "prompt": "count from 1 to 5"})
    assert status == 200
    assert tokens["count"] == len(tokens["tokens"])

    status, text = ask(port, "/detokenize", {"model": "demo", "tokens": tokens["tokens"]})
    assert (status, text["prompt"]) == (200, "count from 1 to 5")


def test_refuses_what_is_wrong_and_serves_on(port: int, client: openai.OpenAI) -> None:
    chat = {"model": "demo", "messages": user("hello"), "max_tokens": 4}
    wrong = [
        ({"max_tokens": 10**6}, 400, "max_tokens"),
        ({"messages": user("count " * 20_000)}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"model": "demi"}, 404, "model"),
        ({"n": 10**6}, 400, "n"),
        ({"structured_outputs": {"regex": "("}}, 400, "structured_outputs.regex"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
            400,
            "response_format",
        ),
    ]
    for change, expected, param in wrong:
        status, body = ask(port, "/v1/chat/completions", chat | change)
        assert status == expected, (change, body)
        assert (body["error"]["param"] or "").startswith(param), (change, body)

    answer = client.chat.completions.create(model="demo", messages=user("count from 1 to 9"), temperature=0)
    assert answer.choices[0].message.content == counted(1, 9)


def figures(port: int, name: str, **labels: str) -> list[float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        return [sample.value for sample in samples(response.read().decode(), name, **labels)]


def test_answers_are_those_of_an_undisturbed_run_when_an_engine_is_killed(
    served: Served, shared_terminal: Terminal
) -> None:
    """In the middle of a tool call's arguments, beside answers that count and think."""
    check_kills(shared_terminal.environment, 2)


def test_an_agent_loop_goes_on_through_the_death_of_an_engine(
    served: Served, shared_terminal: Terminal, tmp_path: Path
) -> None:
    """One engine core of two is killed while each carries long answers, of the loop and of realtime sessions."""
    output, errors = tmp_path / "output", tmp_path / "errors"

    def begin() -> subprocess.Popen[bytes]:
        with output.open("w") as said, errors.open("w") as failed:
            example = [sys.executable, ROOT / "examples" / "agent_loop.py"]
            return subprocess.Popen(example, stdout=said, stderr=failed, env=shared_terminal.environment)

    with Counting(served.port, sessions=4, last=400) as counting:
        loop, until = begin(), time.monotonic() + 240
        # One that is gone is shown for a while.
        while sum(running := figures(served.port, "penstock_instance_running_requests")) < 6.0 or (
            sum(requests >= 1.0 for requests in running) < 2
        ):
            assert time.monotonic() < until, (running, errors.read_text())
            if loop.poll() is not None:
                # On a busy machine it has come to its end before one has looked.
                assert loop.returncode == 0, errors.read_text()
                loop = begin()
            time.sleep(0.05)
        # Not by their cores' names: vLLM cannot always give them one.
        names = {process: process.name() for process in shared_terminal.processes()}
        actors = [process.pid for process, name in names.items() if name.startswith("ray::EngineActo")]
        assert len(actors) == 2, (running, names)
        os.kill(engine_pids(actors[0])[0], signal.SIGKILL)
        assert loop.wait(120) == 0, errors.read_text()

    assert len(counting.answers) >= 4 and set(counting.answers) == {counted(1, 400)}
    assert output.read_text().splitlines() == [
        "what is the weather in Lisbon? The temperature is 21 degrees.",
        "what time is it in Oslo? The time is 10:04.",
        f"count from 1 to 400 {counted(1, 400)}",
        f"count from 2 to 400 {counted(2, 400)}",
    ]
    moved = {"cause": "died", "model": "demo", "outcome": "continued"}
    assert sum(figures(served.port, "penstock_migrations_total", **moved)) >= 1
