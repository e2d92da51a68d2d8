"""What a tenant may ask for, held against each of its requests."""

from typing import Any

from deployments.tenants.tenant import ANYBODY, Scope, Tenant
from engines.call_requests import Answer, CallRequest
from engines.context import Context
from engines.errors import Forbidden
from engines.events import Event
from engines.operators.operator import Transparent
from engines.requests import GenerateRequest, Session
from engines.sink import Sink


class TenantBounds(Transparent[GenerateRequest, Event]):
    """An operator around a model, for one tenant: refuses what it may not, and names its sessions after it.

    Args:
        tenant: Who asks.
    """

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink[Event]) -> None:
        """Answers into a sink, as `Engine.submit` says.

        Raises:
            Forbidden: The tenant may not ask for this; names the field.
        """
        await self.inner.submit(self.bounded(request), context, sink)

    async def call(self, request: CallRequest[Answer], context: Context) -> Answer:
        """Answers at once, as `Engine.call` says.

        Raises:
            Forbidden: The tenant may not ask for this; names the field.
        """
        if request.runs_model:
            self._check_scope("embed")
        changes = self._dispatch(request)
        return await self.inner.call(request.model_copy(update=changes) if changes else request, context)

    def bounded(self, request: GenerateRequest) -> GenerateRequest:
        """The request as the tenant may ask it.

        Raises:
            Forbidden: It may not; names the field.
        """
        self._check_scope("generate")
        sampling, tenant = request.sampling, self._tenant
        changes = self._dispatch(request)
        if tenant.max_n is not None and sampling.n > tenant.max_n:
            raise Forbidden(f"n: it is at most {tenant.max_n} for this API key.", param="sampling.n")
        if tenant.max_tokens is not None:
            for field in ("max_tokens", "min_tokens"):
                if (getattr(sampling, field) or 0) > tenant.max_tokens:
                    message = f"{field}: it is at most {tenant.max_tokens} for this API key."
                    raise Forbidden(message, param=f"sampling.{field}")
            if sampling.max_tokens is None:
                # Who says nothing has not asked for more than fits.
                bound = {"max_tokens": tenant.max_tokens, "clip_max_tokens": True}
                changes["sampling"] = sampling.model_copy(update=bound)
        return request.model_copy(update=changes) if changes else request

    def _check_scope(self, scope: Scope) -> None:
        if scope not in self._tenant.scopes:
            raise Forbidden(f"The API key's tenant has not the scope {scope!r}.")

    def _dispatch(self, request: GenerateRequest | CallRequest[Any]) -> dict[str, Any]:
        """The fields of a request that say where and when, as far as they change."""
        tenant = self._tenant
        changes: dict[str, Any] = {} if tenant is ANYBODY else {"tenant": tenant.share}
        least, most = tenant.priority.most_urgent, tenant.priority.least_urgent
        if not least <= request.priority <= most:
            if "priority" in request.model_fields_set:
                message = f"priority: it is from {least} to {most} for this API key."
                raise Forbidden(message, param="priority")
            changes["priority"] = min(max(request.priority, least), most)
        if tenant.is_admin:
            return changes
        if request.instance is not None:
            raise Forbidden("instance: naming one takes the scope 'admin'.", param="instance")
        if request.session is not None:
            changes["session"] = session_of(tenant, request.session)
        return changes


def session_of(tenant: Tenant, session: Session) -> Session:
    """A tenant's session as the router knows it: no other tenant can name it, but with the scope `admin`."""
    return session.model_copy(update={"id": f"{tenant.name}/{session.id}"})
