"""The fleet as one tenant has it: its models, each held to what the tenant may ask for and spend."""

from collections.abc import Sequence

from deployments.fleet import Fleet, Model
from deployments.tenants.bounds import TenantBounds
from deployments.tenants.quotas import Quotas
from deployments.tenants.spending import TenantSpending
from deployments.tenants.tenant import Tenant
from engines.contract import Engine
from engines.errors import ModelNotFound


def models_of(fleet: Fleet, tenant: Tenant) -> Sequence[Model]:
    """The models that a tenant may use."""
    return [model for model in fleet.models if tenant.may_use(model.names)]


def model_of(fleet: Fleet, tenant: Tenant, name: str) -> Model:
    """The model of a name or alias.

    Raises:
        ModelNotFound: It is not served to the tenant.
    """
    try:
        model = fleet.find(name)
    except ModelNotFound:
        model = None
    if model is None or not tenant.may_use(model.names):
        raise ModelNotFound(name, tuple(known for one in models_of(fleet, tenant) for known in one.names))
    return model


def held_to(tenant: Tenant, quotas: Quotas, engine: Engine) -> Engine:
    """An engine, held to what a tenant may ask for and spend.

    Args:
        tenant: Who asks.
        quotas: The budgets of all.
        engine: The model's.
    """
    paid = TenantSpending(quotas, tenant).around(engine) if tenant.has_limits else engine
    return TenantBounds(tenant).around(paid)
