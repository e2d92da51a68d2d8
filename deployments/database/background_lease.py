"""A response that one router replica makes in the background, for as long as its lease lasts."""

import time
from dataclasses import dataclass, field

LEASE_S = 15.0
"""So long after it was last heard of whoever makes a response is taken for dead."""


class LeaseLost(Exception):
    """The response is not this replica's any more: another one makes it, or it was cancelled or removed."""


@dataclass(eq=False, slots=True)
class Lease:
    """A lease, by whoever holds it.

    Attributes:
        id: The response's id.
        tenant: Whose it is.
        epoch: How often it was taken; a write with an older number changes nothing.
        is_cancelled: Whether all that is left to do is to end it.
        tries: How often there was no room for it.
        losses: How often in a row its holder was lost, with nothing said in between.
        batches: How many batches of its events are stored.
        bytes: What it has in the database, when it was taken.
        created_s: Unix time.
        started_s: Unix time of its first event; None: it waits.
        until_s: When the lease ends, on the clock of `time.monotonic()`.
        pending: A batch that is to be stored; None: the lease is to be renewed.
        is_over: Whether nothing is to be written any more.
    """

    id: str
    tenant: str
    epoch: int
    is_cancelled: bool
    tries: int
    losses: int
    batches: int
    bytes: int
    created_s: float
    started_s: float | None
    until_s: float = field(default_factory=lambda: time.monotonic() + LEASE_S)
    pending: str | None = None
    is_over: bool = False
