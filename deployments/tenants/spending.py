"""What a tenant's requests cost, held against its budget: reserved before they are dispatched, settled at their end."""

from deployments.prompt_size import most_prompt_tokens
from deployments.tenants.quotas import Quotas, Reservation
from deployments.tenants.tenant import Tenant
from engines.call_requests import Answer, CallRequest, ModelAnswer
from engines.context import Context
from engines.errors import PenstockError
from engines.events import Event, Finished, Started
from engines.operators.operator import Transparent
from engines.requests import GenerateRequest
from engines.sink import Sink

_UNKNOWN_CONTEXT = 4096
"""The longest answer to a request that says nothing, of a model that does not say how much fits."""


class TenantSpending(Transparent[GenerateRequest, Event]):
    """An operator around a model, for one tenant: what it cannot pay for is refused before anything runs.

    Args:
        quotas: The budgets.
        tenant: Whose is charged.
    """

    def __init__(self, quotas: Quotas, tenant: Tenant) -> None:
        self._quotas = quotas
        self._tenant = tenant

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink[Event]) -> None:
        """Answers into a sink, as `Engine.submit` says.

        Raises:
            RateLimited: The tenant has used up what it may.
            Forbidden: It can never pay for so much.
        """
        asked, prompt, answers = self._bounds(request)
        reservation = await self._quotas.reserve(self._tenant, prompt + answers)
        try:
            await self.inner.submit(asked, context, _PaidSink(sink, reservation, prompt))
        except BaseException:
            reservation.settle(0)
            raise

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, as `Engine.call` says.

        Raises:
            RateLimited: The tenant has used up what it may.
            Forbidden: It can never pay for so much.
        """
        if not request.runs_model:
            return await self.inner.call(request, context)
        reservation = await self._quotas.reserve(self._tenant, request.size)
        used = 0
        try:
            answer = await self.inner.call(request, context)
            used = answer.prompt_tokens if isinstance(answer, ModelAnswer) else request.size
        finally:
            reservation.settle(used)
        return answer

    def _bounds(self, request: GenerateRequest) -> tuple[GenerateRequest, int, int]:
        """The request, bounded if it is not by itself, and the most tokens that prompt and answers can have."""
        sampling, context_length = request.sampling, self.inner.capabilities.context_length
        prompt = most_prompt_tokens(request)
        if context_length:
            prompt = min(prompt, context_length)
        most = sampling.max_tokens if sampling.max_tokens is not None else context_length or _UNKNOWN_CONTEXT
        if context_length:
            most = min(most, context_length)
        limit = self._tenant.limits.tokens
        if sampling.max_tokens is None and limit is not None and prompt + sampling.n * most > limit:
            # Who says nothing has not asked for more than it can pay.
            most = max(1, (limit - prompt) // sampling.n)
        if sampling.max_tokens is None and most != context_length:
            bound = {"max_tokens": most, "clip_max_tokens": True}
            request = request.model_copy(update={"sampling": sampling.model_copy(update=bound)})
        return request, prompt, sampling.n * most


class _PaidSink:
    """Passes events on, and counts what they cost."""

    __slots__ = ("_prompt", "_reservation", "_sink", "_tokens")

    def __init__(self, sink: Sink[Event], reservation: Reservation, prompt: int) -> None:
        self._sink = sink
        self._reservation = reservation
        self._prompt = prompt
        self._tokens = 0

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        if event.__class__ is Started:
            if event.prompt_tokens is not None:
                self._reservation.lower(self._prompt - event.prompt_tokens)
                self._prompt = min(self._prompt, event.prompt_tokens)
        elif event.__class__ is Finished:
            usage = event.usage
            self._reservation.settle(usage.prompt_tokens + usage.completion_tokens)
        else:
            self._tokens += len(getattr(event, "token_ids", ())) or 1
        self._sink.emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream."""
        self._reservation.settle(self._prompt + self._tokens)
        self._sink.fail(error)
