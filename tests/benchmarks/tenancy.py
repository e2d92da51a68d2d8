"""What keys, bounds and quotas cost a request in the router: microseconds of CPU, in one process.

`python -m tests.benchmarks.tenancy` asks an engine that answers at once, by itself and as a tenant with a key, bounds
and quotas has it, and prints what each adds. The directory is in the same process, and is asked every second, as it is
in a fleet that is busy. Goal: 30 us in all.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from rich.console import Console

from deployments.tenants.key_file import parse_keys
from deployments.tenants.keys import Keys
from deployments.tenants.quotas import Quotas
from deployments.tenants.tenant_view import held_to
from engines.context import Context
from engines.contract import Capabilities, Engine, PushEngine
from engines.events import Event, Finished, Started, TextDelta, Usage
from engines.requests import GenerateRequest
from engines.sink import Sink
from tests.benchmarks.report import table
from tests.deployments.tenants.key_files import key_file

REQUESTS = 3_000
ROUNDS = 7
REQUEST = GenerateRequest.model_validate(
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You answer in one sentence. " * 10},
            {"role": "user", "content": "What is a penstock? " * 20},
        ],
        "sampling": {"max_tokens": 100},
    }
)


class AtOnce(PushEngine):
    """Answers with one token."""

    name = "at-once"
    capabilities = Capabilities(context_length=8192)
    ready = True

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Does nothing."""

    async def submit(self, request: GenerateRequest, context: Context, sink: Sink[Event]) -> None:
        """Answers."""
        sink.emit(Started(self.name, request.model, 120))
        sink.emit(TextDelta("Hi", 0, (1,)))
        sink.emit(Finished(("stop",), Usage(120, 1), self.name))


class Nothing:
    """A sink."""

    def emit(self, event: Event) -> None:
        """Takes the next event."""

    def fail(self, error: Exception) -> None:
        """Takes the error that ends the stream."""


async def cost_us(ask: Callable[[], Awaitable[None]]) -> float:
    """CPU of one request: the median of the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        for _ in range(REQUESTS):
            await ask()
        rounds.append((time.process_time() - began_s) / REQUESTS * 1e6)
    return statistics.median(rounds)


async def main() -> None:
    """As the module's docstring says."""
    console = Console(file=sys.stdout, width=120)
    engine, sink = AtOnce(), Nothing()
    holders = parse_keys(
        key_file(bound={"max_n": 4}, limited={"max_n": 4, "tokens_per_minute": 10**12, "max_requests": 1000}), ""
    )
    keys, quotas = Keys(is_open=False), Quotas.alone()
    keys.replace(holders)
    await quotas.start()

    def asking(name: str | None) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            context, asked, tenant = Context(), engine, None
            if name is None:
                await asked.submit(REQUEST, context, sink)
                return
            holder = keys.holder(f"{name}-key".encode())
            tenant = holder.tenant
            held: Engine = held_to(tenant, quotas, engine)
            with keys.running(holder, context):
                await held.submit(REQUEST, context, sink)
            if tenant.has_limits:
                quotas.headers(tenant)

        return ask

    made = table("as", "CPU of a request, us", "of it the tenant's")
    bare_us = 0.0
    for name in (None, "bound", "limited"):
        took_us = await cost_us(asking(name))
        bare_us = bare_us or took_us
        called = {None: "nobody", "bound": "a tenant with a key and bounds", "limited": "one with quotas, too"}[name]
        made.add_row(called, f"{took_us:.1f}", f"{took_us - bare_us:.1f}")
    console.print(made)
    await quotas.stop()


if __name__ == "__main__":
    asyncio.run(main())
