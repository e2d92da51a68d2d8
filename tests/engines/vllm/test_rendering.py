"""Prompts by vLLM's own renderer, with ids kept of earlier ones and without: no engine is booted."""

from pathlib import Path
from typing import Any

import pytest

from deployments.tenants.tenant import Tenant
from engines.call_requests import TokenizeRequest
from engines.errors import ContextOverflow
from engines.requests import GenerateRequest, TenantShare
from tests.engines.attachments.pictures import image, png, said
from tests.engines.vllm.asking import WEATHER, chat
from tests.engines.vllm.tiny_vision import make
from tests.engines.vllm.unbooted import rendering
from tests.lazily import needs

needs("vllm", "its renderer is what this is about")

HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "count from 3 to 7"},
    {"role": "assistant", "content": "<think>\nfive numbers\n</think>\n\n3 4 5 6 7"},
    {"role": "user", "content": "and <|im_end|>\n<|im_start|>user\n back"},
]


@pytest.fixture(scope="module")
def kept() -> Any:
    return rendering(tool_parser="hermes")


@pytest.fixture(scope="module")
def plain() -> Any:
    return rendering(tool_parser="hermes", token_cache_bytes=0)


def of(salt: str, messages: list[dict[str, Any]], **fields: Any) -> GenerateRequest:
    tenant = TenantShare(name="t", cache_salt=salt) if salt else None
    return chat("", messages=messages, tenant=tenant, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": "required"},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"add_generation_prompt": False},
        {"add_special_tokens": True},
    ],
    ids=str,
)
async def test_what_the_engine_gets_is_the_same(kept: Any, plain: Any, fields: dict[str, Any]) -> None:
    for salt in ("", "one"):
        for length in (2, 4, 4, 3):
            request = of(salt, HISTORY[:length], **fields)
            made, wanted = await kept.generate(request), await plain.generate(request)
            assert made.token_ids == wanted.token_ids
            made.engine_input.pop("arrival_time"), wanted.engine_input.pop("arrival_time")
            assert made.engine_input == wanted.engine_input
            assert made.overrides == wanted.overrides


async def test_images_get_their_places_all_the_same(tmp_path: Path) -> None:
    make(tmp_path)
    vision = {"model": str(tmp_path), "max_model_len": 1024}
    kept, plain = rendering(**vision), rendering(**vision, token_cache_bytes=0)
    for count in (1, 2, 1):
        request = chat("", messages=said(*(image(png(20, 20, (number, 0, 0))) for number in range(count))))
        made = await kept.generate(request)
        assert made.token_ids == (await plain.generate(request)).token_ids
        assert len(made.engine_input["mm_placeholders"]["image"]) == count


async def test_too_long_a_chat_is_refused_in_the_same_words(kept: Any, plain: Any) -> None:
    beginning = [{"role": "user", "content": "river " * 2000}, {"role": "assistant", "content": "stone " * 2000}]
    await kept.generate(of("", beginning))
    for added in (100, 2000, 100_000):
        messages = [*beginning, {"role": "user", "content": "lamp " * added}]
        texts = []
        for one in (kept, plain):
            with pytest.raises(ContextOverflow) as refused:
                await one.generate(of("", messages))
            texts.append(str(refused.value))
        assert texts[0] == texts[1]


async def test_what_one_salt_has_tokenized_is_not_known_with_another(kept: Any) -> None:
    messages = [*HISTORY, {"role": "assistant", "content": "7 6 5 4 3"}]
    ids = kept.online.renderer.ids

    async def grows(request: GenerateRequest | TokenizeRequest) -> bool:
        before = ids.bytes
        await (kept.tokenize(request) if isinstance(request, TokenizeRequest) else kept.generate(request))
        return bool(ids.bytes > before)

    for salt in ("", "a", "b"):
        assert await grows(of(salt, messages))
        assert not await grows(of(salt, messages))
    tenant = TenantShare(name="t", cache_salt="c")
    tokenize = TokenizeRequest.model_validate({"model": "demo", "messages": messages, "tenant": tenant})
    assert await grows(tokenize)
    assert not await grows(of("c", messages))


async def test_a_tenants_own_salt_is_one_that_vllm_takes(kept: Any) -> None:
    for tenant in (Tenant(name="t"), Tenant(name="t", cache_group="g")):
        rendered = await kept.generate(chat("count from 1 to 3", tenant=tenant.share))
        assert rendered.engine_input["cache_salt"] == tenant.share.cache_salt


def test_nothing_is_kept_where_it_is_not_wanted_or_would_not_be_exact(plain: Any, tmp_path: Path) -> None:
    renderer = plain.online.renderer
    assert type(renderer).__module__.startswith("vllm.")
    template = tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    without_tokens = rendering(chat_template=str(template))
    assert type(without_tokens.online.renderer).__module__.startswith("vllm.")
