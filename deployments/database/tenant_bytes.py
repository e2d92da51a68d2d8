"""What each tenant has in a table, counted as it is written: a row for each, so that its writers take turns."""

from sqlalchemy import Table, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


async def add_bytes(connection: AsyncConnection, tenants: Table, tenant: str, size: int) -> int:
    """Counts bytes for a tenant; returns what it has then.

    Args:
        connection: In a transaction, until whose end nobody else counts for the tenant.
        tenants: Where that is counted: columns `tenant` and `bytes`.
        tenant: Whose they are.
        size: How many; negative: they are gone.
    """
    if size <= 0:
        query = update(tenants).where(tenants.c.tenant == tenant).values(bytes=tenants.c.bytes + size)
        return int((await connection.execute(query.returning(tenants.c.bytes))).scalar_one_or_none() or 0)
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    new = dialect.insert(tenants).values(tenant=tenant, bytes=size)
    counted = new.on_conflict_do_update(index_elements=["tenant"], set_={"bytes": tenants.c.bytes + size})
    return int((await connection.execute(counted.returning(tenants.c.bytes))).scalar_one())
