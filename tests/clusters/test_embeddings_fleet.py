"""The second fleet file that comes with Penstock, on real vLLM."""

from pathlib import Path

import openai
import pytest

import clusters
from tests.clusters.conftest import Terminal, free_port

pytest.importorskip("vllm", reason="the fleet runs on vLLM")

VLLM_BOOT_S = 900.0


def test_embeds_beside_the_chat_model(tmp_path: Path) -> None:
    """The demo weights, once generating and once pooling."""
    terminal = Terminal(tmp_path)
    port = free_port()
    fleet = Path(clusters.__file__).parent / "embeddings.yaml"
    penstock = terminal.start("serve", str(fleet), "--port", str(port))
    try:
        penstock.wait_for("Ctrl-C", VLLM_BOOT_S)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120, max_retries=0)

        answer = client.embeddings.create(model="demo-embeddings", input=["one river", "another river", "one river"])
        first, second, third = (item.embedding for item in answer.data)

        assert len(first) == 128
        assert first == pytest.approx(third, abs=1e-3)
        assert first != pytest.approx(second, abs=1e-3)
        with pytest.raises(openai.BadRequestError, match="embeddings"):
            client.embeddings.create(model="demo", input="one river")
    finally:
        assert penstock.interrupt() == 0, penstock.output
