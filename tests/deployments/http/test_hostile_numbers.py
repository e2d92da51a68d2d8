"""Numbers that are no numbers, or not the kind that a field holds: each is refused, and named."""

import json
from typing import Any

import pytest

from tests.deployments.http.conftest import HELLO, Serving

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "demo", "messages": HELLO},
    "/v1/completions": {"model": "demo"},
    "/v1/embeddings": {"model": "demo"},
    "/tokenize": {"model": "demo", "prompt": "hi"},
    "/detokenize": {"model": "demo"},
}
CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE, DETOKENIZE = BODIES


def with_field(path: str, text: str) -> bytes:
    """A body of that path with one more field, as it is written."""
    return json.dumps(BODIES[path]).encode()[:-1] + f", {text}}}".encode()


WRONG = [
    # Truth values, which Python takes for 0 and 1.
    (CHAT, '"temperature": true', "temperature"),
    (CHAT, '"n": true', "n"),
    (CHAT, '"seed": false', "seed"),
    (CHAT, '"priority": true', "priority"),
    (CHAT, '"logit_bias": {"5": true}', "logit_bias.5"),
    (CHAT, '"stop_token_ids": [true]', "stop_token_ids[0]"),
    (COMPLETIONS, '"prompt": [true]', "prompt[0]"),
    (COMPLETIONS, '"prompt": "a", "logprobs": true', "logprobs"),
    (EMBEDDINGS, '"input": [true]', "input[0]"),
    (EMBEDDINGS, '"input": "a", "dimensions": true', "dimensions"),
    (DETOKENIZE, '"tokens": [true]', "tokens[0]"),
    # And the other way round.
    (CHAT, '"stream": 1', "stream"),
    (CHAT, '"logprobs": 1', "logprobs"),
    # Fractions and exponents where a whole number belongs.
    (CHAT, '"max_tokens": 5.0', "max_tokens"),
    (CHAT, '"max_tokens": 1e2', "max_tokens"),
    (CHAT, '"max_tokens": 1e308', "max_tokens"),
    (CHAT, '"top_k": 1e3', "top_k"),
    (CHAT, '"priority": 1.0', "priority"),
    (COMPLETIONS, '"prompt": [1.0]', "prompt[0]"),
    (DETOKENIZE, '"tokens": [1.5]', "tokens[0]"),
    # Past the ends.
    (CHAT, '"temperature": 1e308', "temperature"),
    (CHAT, '"temperature": -1e-300', "temperature"),
    (CHAT, '"top_p": 1e-400', "top_p"),
    (CHAT, '"repetition_penalty": 5e-324', "repetition_penalty"),
    (CHAT, '"logit_bias": {"5": 1e308}', "logit_bias"),
    (CHAT, '"seed": -9223372036854775809', "seed"),
    (CHAT, '"max_tokens": ' + "9" * 320, "max_tokens"),
    (CHAT, '"temperature": ' + "9" * 320, "temperature"),
    (COMPLETIONS, '"prompt": [-1]', "prompt[0]"),
    (COMPLETIONS, '"prompt": [2147483648]', "prompt[0]"),
    (COMPLETIONS, '"prompt": "a", "n": -1', "n"),
    (EMBEDDINGS, '"input": "a", "dimensions": 1000000000000', "dimensions"),
    (EMBEDDINGS, '"input": "a", "truncate_prompt_tokens": -2', "truncate_prompt_tokens"),
    (DETOKENIZE, '"tokens": [-1]', "tokens[0]"),
    # Text that looks like one.
    (CHAT, '"temperature": "NaN"', "temperature"),
    (CHAT, '"max_tokens": "1e5"', "max_tokens"),
    (CHAT, '"logit_bias": {"1e2": 1}', "logit_bias"),
    (CHAT, '"logit_bias": {"-1": 1}', "logit_bias"),
    (CHAT, '"logit_bias": {"\u0661": 1}', "logit_bias"),
    (CHAT, '"logit_bias": {"99999999999": 1}', "logit_bias"),
    # Given twice.
    (CHAT, '"max_tokens": 1, "max_tokens": 99999', "max_tokens"),
    (TOKENIZE, '"prompt": "longer"', "prompt"),
]


@pytest.mark.parametrize(("path", "text", "param"), WRONG, ids=[f"{text[:36]}" for _, text, _ in WRONG])
async def test_a_wrong_number_is_refused_by_its_name(serving: Serving, path: str, text: str, param: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post(path, with_field(path, text))
        assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body[:500]
        assert len(answer.body) < 1500
        assert not served.engine.requests
        await served.still_serves()


@pytest.mark.parametrize("number", ["01", "+1", ".5", "1.", "0x10", "1_000", "1e", "--1", "1e99999999999999999999"])
async def test_what_json_does_not_write_is_no_number(serving: Serving, number: str) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post(CHAT, with_field(CHAT, f'"temperature": {number}'))
        assert answer.status == 400, answer.body[:500]
        assert not served.engine.requests
        await served.still_serves()


@pytest.mark.parametrize(
    ("number", "value"), [("-0.0", 0.0), ("1e-400", 0.0), ("5e-324", 5e-324), ("1E+0", 1.0), ("0.1e1", 1.0)]
)
async def test_odd_spellings_of_good_numbers_are_taken(serving: Serving, number: str, value: float) -> None:
    async with serving(["Hi"]) as served:
        answer = await served.post(CHAT, with_field(CHAT, f'"temperature": {number}'))
        assert answer.status == 200
        assert served.engine.requests[0].sampling.temperature == value
