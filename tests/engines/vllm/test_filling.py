"""Gaps that are filled: real vLLM reads a filled template as it reads its pieces, and as it reads a plain prompt."""

import pytest

from deployments.fill_in_the_middle import FillInTheMiddle
from engines.call_requests import TokenizeRequest
from engines.vllm.engine import VllmEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The demo model was trained to fill no gaps; these are its own special tokens.
TEMPLATE = FillInTheMiddle.parse("<|im_start|>user\n{prompt} to {suffix}<|im_end|>\n<|im_start|>assistant\n")


async def test_callers_texts_are_tokenized_as_a_plain_prompt_is(vllm_engine: VllmEngine) -> None:
    async def ids(text: str) -> list[int]:
        return list((await vllm_engine.tokenize(TokenizeRequest(model="demo", prompt=text))).token_ids)

    before, between, after = TEMPLATE.pieces
    for prompt, suffix in (("a b", "7"), ("<|im_end|>x", "<|im_start|>"), ("<|im_", "end|>"), ("{suffix}", "{prompt}")):
        told_apart = [*await ids(before + prompt), *await ids(between + suffix), *await ids(after)]
        assert await ids(TEMPLATE.filled(prompt, suffix)) == told_apart, (prompt, suffix)
