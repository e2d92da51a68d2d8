"""One tenant: what its keys let it do."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from actors.directory.budgets import Limits
from actors.settings import Settings
from deployments.fleet_settings import Label
from engines.requests import TenantShare

Scope = Literal["generate", "embed", "admin"]
"""`generate` text; `embed`: vectors, scores, and what else a pooling model makes; `admin`: name an instance, a session
of another tenant, and ask the operators' routes."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_KEYS = 16
_NO_LIMITS = Limits()
_URGENT, _PATIENT = -100, 100
"""The bounds of a request's priority."""


class KeyHash(Settings):
    """One key of a tenant. The key itself is nowhere: who reads the file cannot use it.

    Attributes:
        sha256: SHA-256 of the key, in hexadecimal.
        expires: The last day on which it is good (UTC), as `2027-06-30`, or the moment at which it ends, as
            `2027-06-30T12:00:00Z`; None: never.
    """

    sha256: str
    expires: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether it is past its end."""
        return self.expires is not None and now > self.expires

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        if not _SHA256.fullmatch(value.lower()):
            raise ValueError("must be 64 hexadecimal digits, the SHA-256 of a key; `penstock keys new` makes both")
        return value.lower()

    @field_validator("expires", mode="before")
    @classmethod
    def _is_a_moment(cls, value: object) -> object:
        if value is None or isinstance(value, datetime):
            return value
        try:
            text = str(value)
            if len(text) == len("2027-06-30"):
                return datetime.combine(date.fromisoformat(text), time.max, UTC)
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("must be a day such as 2027-06-30, or a moment such as 2027-06-30T12:00:00Z") from None
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class PriorityBounds(Settings):
    """Which priorities a tenant's requests may have; lower is served first.

    Attributes:
        most_urgent: The lowest number.
        least_urgent: The highest.
    """

    most_urgent: int = Field(_URGENT, ge=_URGENT, le=_PATIENT)
    least_urgent: int = Field(_PATIENT, ge=_URGENT, le=_PATIENT)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most_urgent > self.least_urgent:
            raise ValueError("most_urgent must not be over least_urgent: lower is served first")
        return self


class Tenant(Settings):
    """Who asks: a team, an application.

    Attributes:
        name: In metrics, logs and the names of its sessions.
        keys: Its keys: two while one replaces the other.
        models: Names or aliases of the models that it may use, or names of their adapters; None: all.
        scopes: What it may do.
        priority: Which priorities its requests may have. One that says none has the one nearest to 0.
        max_n: Most choices of a request; None: as the API has it.
        max_tokens: Most tokens that a choice may have; None: as the model has it.
        max_requests: Most requests at a time, over all router replicas; None: as many as it likes.
        tokens_per_minute: Most tokens in any 60 seconds, of prompts and answers; None: as many as it likes.
        tokens_per_day: The same for a day, as UTC has it.
        weight: Its share of an engine that others wait for, too, beside theirs.
        cache_group: Tenants of one group use the prefixes that another has had computed, and can tell by the time that
            an answer takes what was asked before; None: it does that alone.
    """

    name: Label
    keys: list[KeyHash] = Field([], max_length=MOST_KEYS)
    models: list[str] | None = None
    scopes: list[Scope] = ["generate", "embed"]
    priority: PriorityBounds = PriorityBounds()
    max_n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_requests: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    weight: float = Field(1.0, ge=0.01, le=100)
    cache_group: Label | None = None

    @cached_property
    def share(self) -> TenantShare:
        """What its requests say of it on their way."""
        # Without a slash, which vLLM refuses in it.
        salt = f"tenant:{self.name}" if self.cache_group is None else f"group:{self.cache_group}"
        return TenantShare(name=self.name, weight=self.weight, cache_salt=salt)

    @cached_property
    def limits(self) -> Limits:
        """What it may spend."""
        return Limits(self.max_requests, self.tokens_per_minute, self.tokens_per_day)

    @cached_property
    def has_limits(self) -> bool:
        """Whether what it spends is counted."""
        return self.limits != _NO_LIMITS

    @property
    def is_admin(self) -> bool:
        """Whether it may do what operators do."""
        return "admin" in self.scopes

    def may_use(self, names: Sequence[str]) -> bool:
        """Whether it may use a model of these names."""
        return self.models is None or any(name in self.models for name in names)


EVERYTHING: list[Scope] = ["generate", "embed", "admin"]
ANYBODY = Tenant(name="anybody", scopes=EVERYTHING)
"""Who asks where no key is asked for."""
