"""An answer says who gave it, and a request whose span it is below."""

from typing import Any

from deployments.http.ingress import HttpIngress
from engines.context import Context
from engines.contract import Engine
from engines.operators.fallback import Fallback
from engines.operators.link import link
from engines.operators.operator import Transparent
from engines.requests import GenerateRequest
from engines.scripted.engine import ScriptedEngine
from engines.sink import Sink
from tests.deployments.http.conftest import HELLO, Serving


class Renamed(Transparent):
    """Asks for its own model, as a route does."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.contexts: list[Context] = []

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink) -> None:
        self.contexts.append(context)
        await self.inner.submit(request.model_copy(update={"model": self.model}), context, sink)


async def ask(serving: Serving, engine: Engine, **kwargs: Any) -> Any:
    async with serving(engines=[engine]) as served:
        assert isinstance(served.ingress, HttpIngress)
        answers = []
        for stream in (False, True):
            body = {"model": "demo", "messages": HELLO, "stream": stream}
            answers.append(await served.post("/v1/chat/completions", body, **kwargs))
        return answers


async def test_a_model_made_of_others_says_which_one_answered(serving: Serving) -> None:
    other = link(Renamed("llama"), ScriptedEngine("llama-1", script=["hi"]))
    for answer in await ask(serving, Fallback("demo", [other])):
        assert (answer.headers["x-penstock-model"], answer.status) == ("llama", 200)


async def test_a_model_of_its_own_does_not_say_its_name_twice(serving: Serving) -> None:
    for answer in await ask(serving, ScriptedEngine("demo-1", script=["hi"])):
        assert "x-penstock-model" not in answer.headers and answer.status == 200


async def test_the_callers_span_reaches_the_operators(serving: Serving) -> None:
    look = Renamed("demo")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await ask(serving, link(look, ScriptedEngine("demo-1")), headers={"traceparent": parent})
    assert [context.traceparent for context in look.contexts] == [parent, parent]
