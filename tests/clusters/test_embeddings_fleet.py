"""The second fleet file that comes with Penstock, on real vLLM, with two routers, LoRA adapters and a template for gaps
besides."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import yaml
from tokenizers import Tokenizer

import clusters
import engines.demo
from deployments.fill_in_the_middle import FillInTheMiddle
from tests.clusters import realtime_flows
from tests.clusters.conftest import Terminal, free_port
from tests.deployments.waiting import until
from tests.engines.vllm.tiny_adapters import make
from tests.lazily import lazily, needs

needs("vllm", "the fleet runs on vLLM")

langchain_openai = lazily("langchain_openai")

VLLM_BOOT_S = 900.0
DATABASE = "penstock.sqlite"
ADAPTERS = ("one", "two", "narrow", "torn", "gone")
GAP = "<|im_start|>user\n{prompt} to {suffix}<|im_end|>\n<|im_start|>assistant\n"
"""The demo model was trained to fill no gaps: these are its own special tokens, and make a question of both texts."""


@pytest.fixture(scope="module")
def port(shared_terminal: Terminal) -> Iterator[int]:
    fleet = yaml.safe_load((Path(clusters.__file__).parent / "embeddings.yaml").read_text())
    folder = shared_terminal.home / "adapters"
    for seed, name in enumerate(ADAPTERS):
        make(folder / name, seed=seed, inputs=64 if name == "narrow" else 128)
    (folder / "torn" / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    demo = fleet["models"][0]
    demo["adapters"] = [{"name": name, "path": f"./adapters/{name}"} for name in ADAPTERS]
    demo["fill_in_the_middle"] = GAP
    # In float32: who is beside a request must not decide between two tokens that are as likely.
    demo["options"] |= {"dtype": "float32", "max_loras": 2}
    fleet |= {"router": {"replicas": 2}, "database": {"file": f"./{DATABASE}"}}
    port = free_port()
    penstock = shared_terminal.start("serve", shared_terminal.fleet_file(yaml.safe_dump(fleet)), "--port", str(port))
    penstock.wait_for("Ctrl-C", VLLM_BOOT_S)
    # Without one that is not there from the beginning, `penstock serve` would not start.
    (folder / "gone").rename(folder / "elsewhere")
    yield port
    assert penstock.interrupt() == 0, penstock.output


@pytest.fixture
def client(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0)


def test_embeds_beside_the_chat_model(client: openai.OpenAI) -> None:
    """The demo weights, once generating and once pooling."""
    answer = client.embeddings.create(model="demo-embeddings", input=["one river", "another river", "one river"])
    first, second, third = (item.embedding for item in answer.data)

    assert len(first) == 128
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-3)
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        client.embeddings.create(model="demo", input="one river")


def test_embeds_for_langchain(port: int, client: openai.OpenAI) -> None:
    embeddings = langchain_openai.OpenAIEmbeddings(  # type: ignore[call-arg]  # by their aliases
        model="demo-embeddings",
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="none",  # type: ignore[arg-type]
        check_embedding_ctx_length=False,  # Otherwise it sends token ids, of the vocabulary of OpenAI's models.
        max_retries=0,
    )
    texts = ["one river", "another river"]
    asked = client.embeddings.create(model="demo-embeddings", input=texts)

    assert embeddings.embed_documents(texts) == [pytest.approx(item.embedding, abs=1e-3) for item in asked.data]
    assert embeddings.embed_query("one river") == pytest.approx(asked.data[0].embedding, abs=1e-3)


async def counted(client: openai.AsyncOpenAI, model: str, first: int) -> tuple[str, str | None, int, str]:
    """Which model answered, what it said, how much of that, and at which instance."""
    raw = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": f"count from {first} to {first + 9}"}],
        temperature=0,
        max_tokens=30,
        extra_body={"ignore_eos": True},
    )
    answer = raw.parse()
    assert answer.usage is not None
    content, tokens = answer.choices[0].message.content, answer.usage.completion_tokens
    return answer.model, content, tokens, raw.headers["x-penstock-instance"]


async def test_adapters_answer_by_their_names_each_as_itself(port: int) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0
    ) as client:
        parents = {model.id: (model.model_extra or {})["parent"] async for model in client.models.list()}
        assert parents == {"demo": None, "demo-embeddings": None} | dict.fromkeys(ADAPTERS, "demo")

        asked = [(model, first) for first in range(3, 7) for model in ("demo", "one", "two")]
        alone = [await counted(client, model, first) for model, first in asked]
        together = await asyncio.gather(*(counted(client, model, first) for model, first in asked))

    assert together == alone
    assert [(model, tokens) for model, _, tokens, _ in alone] == [(model, 30) for model, _ in asked]
    base, one, two = (text or "" for _, text, _, _ in alone[:3])
    assert base.startswith("3 4 5 6 7 8 9 10 11 12") and len({base, one, two}) == 3


def test_every_api_asks_an_adapter(port: int, client: openai.OpenAI) -> None:
    anthropic_client = anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{port}", api_key="none", timeout=120, max_retries=0
    )
    asked: Any = [{"role": "user", "content": "count from 3 to 9"}]
    chat = client.chat.completions.create(model="one", messages=asked, temperature=0, max_tokens=30)
    stream = client.chat.completions.create(model="one", messages=asked, temperature=0, max_tokens=30, stream=True)
    response = client.responses.create(model="one", input=asked, temperature=0, max_output_tokens=30)
    message = anthropic_client.messages.create(
        model="one", messages=asked, max_tokens=30, extra_body={"temperature": 0}
    )

    said = chat.choices[0].message.content
    assert said and said != "3 4 5 6 7 8 9"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == said
    assert response.output_text == said
    assert "".join(block.text for block in message.content if block.type == "text") == said
    assert (chat.model, response.model, message.model) == ("one", "one", "one")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("narrow", "made for another model"),
        ("torn", "the engine refuses it"),
        ("gone", "its folder does not exist"),
    ],
)
async def test_an_adapter_that_cannot_be_loaded_fails_by_name_and_alone(port: int, name: str, why: str) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0
    ) as client:
        before = [await counted(client, model, 3) for model in ("demo", "one")]
        running = [asyncio.ensure_future(counted(client, model, 3)) for model in ("demo", "one")]
        for _ in range(3):
            with pytest.raises(openai.InternalServerError, match=why) as refused:
                await counted(client, name, 3)
            assert refused.value.code == "adapter_failed" and repr(name) in refused.value.message
        assert await asyncio.gather(*running) == before
        assert [await counted(client, model, 3) for model in ("demo", "one")] == before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_fills_a_gap(client: openai.OpenAI, stream: bool) -> None:
    answer = client.completions.create(
        model="demo", prompt="count from 3", suffix="7", temperature=0, max_tokens=30, stream=stream
    )
    parts = [answer] if isinstance(answer, openai.types.Completion) else list(answer)
    assert "".join(choice.text for part in parts for choice in part.choices) == "3 4 5 6 7"
    assert parts[-1].choices[0].finish_reason == "stop"


def test_a_gaps_prompt_is_the_templates_tokens_and_those_of_both_texts(client: openai.OpenAI) -> None:
    """Who has asked with the same ids before finds what the engine keeps of them, which it finds by the ids alone."""

    def asked(prompt: str | list[int], suffix: str | None = None) -> tuple[int, int]:
        answer = client.completions.create(model="demo", prompt=prompt, suffix=suffix, max_tokens=1, temperature=0)
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens or 0

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    tokenizer = Tokenizer.from_file(str(Path(engines.demo.__file__).parent / "model" / "tokenizer.json"))
    before, between, after = FillInTheMiddle.parse(GAP).pieces
    prompt, suffix = "one river <|im_end|> " * 40, "another river {prompt} " * 80
    head = [*ids(before + prompt), *ids(between)]
    whole = [*ids(before + prompt), *ids(between + suffix), *ids(after)]
    assert asked(whole) == (len(whole), 0)
    total, kept = asked(whole)
    assert total == len(whole) and kept > len(head)
    assert asked(prompt, suffix) == (total, kept)
    assert asked("O" + prompt[1:], suffix)[1] == 0


async def test_a_session_outlives_the_router_that_is_killed(port: int, shared_terminal: Terminal) -> None:
    killed = []

    async def kill(session: str, client_port: int) -> None:
        async def written() -> bool:
            file = shared_terminal.home / DATABASE
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                (count,) = database.execute(
                    "SELECT count(*) FROM realtime_items WHERE session = ?", [session]
                ).fetchone()
            return int(count) == 2

        # In the background: what is told is not always what is kept already.
        await until(written)
        [router] = (
            process
            for process in shared_terminal.processes()
            for connection in process.net_connections("tcp")
            if connection.laddr.port == port and connection.raddr and connection.raddr.port == client_port
        )
        router.kill()
        killed.append(router.pid)

    said = await realtime_flows.through_a_routers_end(port, kill)
    assert said == ["3 4 5 6 7", "5 6 7 8 9", "2 3 4"]
    assert len(killed) == 1
