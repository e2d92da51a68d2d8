from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.tenants.bounds import TenantBounds
from deployments.tenants.tenant import ANYBODY, Tenant
from engines.call_requests import DetokenizeRequest, EmbedRequest
from engines.completion import collect
from engines.context import Context
from engines.contract import Capabilities
from engines.conversation.events import TurnFailed, TurnStarted
from engines.conversation.frames import Frame, Item, Open, Respond, TurnSettings
from engines.errors import Forbidden
from engines.messages import Message
from engines.pooling_requests import ScoreRequest
from engines.requests import GenerateRequest, Sampling, TenantShare
from engines.scripted.engine import ScriptedEngine


def ask(**fields: Any) -> GenerateRequest:
    return GenerateRequest(model="m", prompt="hello", **fields)


async def heard(tenant: Tenant, request: GenerateRequest) -> GenerateRequest:
    """The request as it reaches the model."""
    engine = ScriptedEngine("m-0", script=["Hi"])
    await engine.start()
    try:
        await collect(TenantBounds(tenant).around(engine).generate(request, Context()))
        return engine.requests[0]
    finally:
        await engine.stop()


async def refused(tenant: Tenant, request: GenerateRequest) -> tuple[str | None, str]:
    with pytest.raises(Forbidden) as caught:
        await heard(tenant, request)
    return caught.value.param, caught.value.message


async def test_who_is_bound_by_nothing_is_heard_as_it_asked() -> None:
    request = ask(session={"id": "s"}, instance="m-0", priority=-100, sampling={"n": 2, "max_tokens": 9})
    assert await heard(ANYBODY, request) is request


async def test_more_choices_or_tokens_than_allowed_are_refused_by_name() -> None:
    tenant = Tenant(name="t", max_n=2, max_tokens=10)
    assert (await heard(tenant, ask(sampling={"n": 2, "max_tokens": 10}))).sampling.n == 2
    param, message = await refused(tenant, ask(sampling={"n": 3}))
    assert (param, message) == ("sampling.n", "n: it is at most 2 for this API key.")
    param, message = await refused(tenant, ask(sampling={"max_tokens": 11}))
    assert (param, message) == ("sampling.max_tokens", "max_tokens: it is at most 10 for this API key.")
    param, message = await refused(tenant, ask(sampling={"min_tokens": 11}))
    assert (param, message) == ("sampling.min_tokens", "min_tokens: it is at most 10 for this API key.")
    # One that says nothing is not answered up to the end of the context, and may not fit so many.
    sampling = (await heard(tenant, ask())).sampling
    assert (sampling.max_tokens, sampling.clip_max_tokens) == (10, True)


@pytest.mark.parametrize(("most", "least", "priority"), [(-100, 100, 0), (5, 9, 5), (-9, -5, -5), (-1, 1, 0)])
async def test_who_names_no_priority_has_the_one_nearest_to_0(most: int, least: int, priority: int) -> None:
    tenant = Tenant(name="t", priority={"most_urgent": most, "least_urgent": least})
    assert (await heard(tenant, ask())).priority == priority
    assert (await heard(tenant, ask(priority=least))).priority == least
    if most > -100:
        assert (await refused(tenant, ask(priority=most - 1)))[0] == "priority"


async def test_sessions_are_named_after_their_tenant_and_only_operators_name_others() -> None:
    session = {"id": "s", "mode": "hard"}
    for name in ("a", "b"):
        request = await heard(Tenant(name=name), ask(session=session))
        assert request.session is not None
        assert (request.session.id, request.session.mode) == (f"{name}/s", "hard")
    operator = Tenant(name="o", scopes=["generate", "admin"])
    request = await heard(operator, ask(session={"id": "a/s"}, instance="m-0"))
    assert request.session is not None and request.session.id == "a/s"
    assert (await refused(Tenant(name="a"), ask(instance="m-0")))[0] == "instance"


async def test_turns_of_a_conversation_are_bounded_too() -> None:
    async def frames() -> AsyncIterator[Frame]:
        yield Open(model="m", items=[Item(id="i", message=Message(role="user", content="hello"))])
        yield Respond(turn="long", settings=TurnSettings(sampling=Sampling(max_tokens=11)))
        yield Respond(turn="bounded")

    engine = ScriptedEngine("m-0")
    await engine.start()
    tenant = Tenant(name="t", max_tokens=10)
    events = [event async for event in TenantBounds(tenant).around(engine).converse(frames(), Context())]
    assert isinstance(events[0], TurnFailed) and isinstance(events[0].error, Forbidden)
    assert events[0].error.param == "sampling.max_tokens"
    assert isinstance(events[1], TurnStarted) and events[1].turn == "bounded"


async def test_scopes() -> None:
    engine = ScriptedEngine("m-0", capabilities=Capabilities(embed=True, score=True, tokenize=True))
    await engine.start()
    embeds = TenantBounds(Tenant(name="e", scopes=["embed"])).around(engine)
    generates = TenantBounds(Tenant(name="g", scopes=["generate"])).around(engine)
    vectors = EmbedRequest(model="m", inputs=["hello"])
    assert len(await embeds.call(vectors, Context())) == 1
    with pytest.raises(Forbidden, match="'embed'"):
        await generates.call(vectors, Context())
    assert (await refused(Tenant(name="e", scopes=["embed"]), ask()))[1].endswith("'generate'.")
    scores = ScoreRequest(model="m", queries=["hello"], documents=["a"])
    assert len(await embeds.call(scores, Context())) == 1
    with pytest.raises(Forbidden, match="'embed'"):
        await generates.call(scores, Context())
    # Whoever may do either may count tokens.
    text = DetokenizeRequest(model="m", token_ids=[1])
    assert await generates.call(text, Context()) == await embeds.call(text, Context())
    await engine.stop()


async def test_requests_say_whom_they_are_for_whatever_they_said_themselves() -> None:
    tenant = Tenant(name="t", weight=2.0)
    forged = ask(tenant={"name": "other", "weight": 100, "cache_salt": "tenant:other"})
    assert (await heard(tenant, forged)).tenant == TenantShare(name="t", weight=2.0, cache_salt="tenant:t")
    grouped = Tenant(name="t", cache_group="t")
    assert (await heard(grouped, ask())).tenant == TenantShare(name="t", cache_salt="group:t")
