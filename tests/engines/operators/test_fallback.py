"""Several engines answer as one: in order, and each for as long as it can."""

import pytest

from engines.call_requests import TokenizeRequest
from engines.completion import collect
from engines.context import Context
from engines.contract import Capabilities, Load
from engines.errors import (
    CircuitOpen,
    ContextOverflow,
    EngineDead,
    EngineFault,
    InstanceLost,
    InvalidRequest,
    NoInstance,
    NotReady,
    PenstockError,
    QueueTimeout,
    RateLimited,
    Timeout,
    Unauthorized,
)
from engines.operators.fallback import Fallback
from engines.operators.link import link
from engines.operators.retry import Retry, RetryOptions
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from tests.engines.operators.conftest import playing

REQUEST = GenerateRequest(model="m", prompt="hi")


async def who(fallback: Fallback) -> str:
    return (await collect(fallback.generate(REQUEST, Context()))).engine


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("quota"),
        QueueTimeout("late"),
        CircuitOpen("open"),
        NoInstance("none"),
        Timeout("first_token", 1.0),
        EngineDead("dead"),
        Unauthorized("our key"),
    ],
)
async def test_exhaustion_an_open_breaker_and_a_quota_move_it_along(error: PenstockError) -> None:
    one, two = await playing("one", [error]), await playing("two", ["hi"])
    fallback = Fallback("both", [one, two])
    assert [await who(fallback) for _ in range(2)] == ["two", "two"]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no", param="messages"),
        ContextOverflow("long", context_length=5),
        EngineFault("it kills"),
    ],
)
async def test_a_request_that_is_wrong_is_not_tried_elsewhere(error: PenstockError) -> None:
    one, two = await playing("one", [error]), await playing("two", ["hi"])
    with pytest.raises(type(error)):
        await who(Fallback("both", [one, two]))
    assert not two.requests


async def test_what_has_begun_stays_where_it_is() -> None:
    one, two = await playing("one", ["a ", InstanceLost("gone")]), await playing("two", ["hi"])
    with pytest.raises(InstanceLost):
        await who(Fallback("both", [one, two]))


async def test_when_all_refuse_the_last_ones_error_is_the_callers() -> None:
    one, two = await playing("one", [NoInstance("none")]), await playing("two", [RateLimited("quota")])
    with pytest.raises(RateLimited):
        await who(Fallback("both", [one, two]))


async def test_an_engine_that_is_not_ready_waits_for_its_return() -> None:
    one, two = await playing("one", ["a"]), await playing("two", ["b"])
    fallback = Fallback("both", [one, two])
    assert await who(fallback) == "one"
    await one.stop()
    assert await who(fallback) == "two" and not one.requests[1:]
    await one.start()
    assert await who(fallback) == "one"


async def test_it_can_do_what_all_that_are_ready_can_do() -> None:
    one = ScriptedEngine("one", capabilities=Capabilities(tools=True, guided=True, context_length=4096))
    two = ScriptedEngine("two", capabilities=Capabilities(tools=True, context_length=1024, accelerator="gpu"))
    fallback = Fallback("both", [one, two])
    assert (fallback.ready, fallback.capabilities) == (False, Capabilities())
    with pytest.raises(NotReady):
        await fallback.check_health()
    await fallback.start()
    assert fallback.capabilities == Capabilities(tools=True, context_length=1024)
    await fallback.check_health()
    assert fallback.load() == Load()
    await two.stop()
    assert fallback.ready and fallback.capabilities == one.capabilities
    await fallback.stop()
    assert not fallback.ready


async def test_members_may_be_pipelines_and_it_may_be_in_one() -> None:
    one, two = await playing("one", [NoInstance("none")]), await playing("two", [NoInstance("none")], ["hi"])
    fallback = Fallback("both", [link(Retry(RetryOptions(attempts=2, base_s=0.001)), one), two])
    pipeline = link(Retry(RetryOptions(attempts=2, base_s=0.001)), fallback)
    assert (await collect(pipeline.generate(REQUEST, Context()))).engine == "two"
    assert (len(one.requests), len(two.requests)) == (4, 2)


async def test_calls_fall_back_likewise() -> None:
    one, two = ScriptedEngine("one", capabilities=Capabilities(tokenize=True)), ScriptedEngine("two")
    await two.start()
    request = TokenizeRequest(model="m", prompt="a")
    assert (await Fallback("both", [one, two]).tokenize(request)).token_ids == [ord("a")]


def test_it_needs_a_member() -> None:
    with pytest.raises(ValueError, match="fall back"):
        Fallback("none", [])
