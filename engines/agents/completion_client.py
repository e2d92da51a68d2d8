"""The caller's way to models: one client over whatever answers, an engine of this process, a Serve handle or HTTP."""

import math

from engines.agents.completion_model import ChatRequest, ChatStream, CompletionModel, bound, opened
from engines.context import Context
from engines.contract import Engine
from engines.operators.link import link
from engines.operators.timeout import Timeouts


class CompletionClient:
    """Makes handles of models.

    What answers is an engine: one of this process, a fleet behind a Serve handle (`deployments.connect()`), or a server
    that speaks OpenAI's API (`engines.remote`); a pipeline of operators around any of them, too.

    Args:
        engine: What answers; started by whoever made it.
        name: The adapter family, for logs; None: the engine's name.
    """

    def __init__(self, engine: Engine, name: str | None = None) -> None:
        self.engine = engine
        self.name = name if name is not None else engine.name

    def model(self, model: str) -> CompletionModel:
        """The handle of a model. That it is served is found out when it is asked."""
        return _EngineModel(self.engine, self.name, model)


class _EngineModel(CompletionModel):
    def __init__(self, engine: Engine, name: str, model: str) -> None:
        self.name = name
        self.model = model
        self._engine = engine
        self._timed = link(Timeouts(), engine)

    async def chat_stream(self, request: ChatRequest, context: Context | None = None) -> ChatStream:
        context = context or Context()
        # The way of one without a deadline is shorter.
        engine = self._engine if context.deadline_s == math.inf else self._timed
        return await opened(engine.generate(bound(request, self.model), context), context)
