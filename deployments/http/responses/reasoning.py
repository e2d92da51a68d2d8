"""Reasoning: how much of it is asked for, and its encrypted form, which a client keeps for a server that keeps nothing.

Encrypted, it is sealed with the fleet's secret, for one tenant: what it says stays with whoever was shown it, and only
what a model of this fleet, or a provider's, has thought comes back that way. So is a conversation in short.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from deployments.fleet_secret import FleetSecret
from deployments.http.responses.items import CompactionItem, ReasoningItem, SaidItem
from deployments.http.server.body_parts import Ignored, Strict, refused
from deployments.http.server.names import Location
from deployments.http.server.validation import wrong_at
from engines.turns import Turns

Purpose = Literal["responses reasoning", "responses compaction"]
"""What is encrypted: what a model has thought, or a conversation in short."""
_MOST_CHARS = 4 * 2**20
"""Of one encrypted text: it is opened in one go, while everybody else waits."""


class ReasoningBody(Strict):
    """How much the model thinks."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Ignored = None
    mode: Annotated[Any, refused("there is one mode here; leave it out", "standard")] = None


@dataclass(frozen=True, slots=True)
class Thought:
    """What a model has thought.

    Attributes:
        text: In words.
        redacted: What only its provider can read; None: it is in words.
    """

    text: str = ""
    redacted: str | None = None


class Sealer:
    """Encrypts what models have thought for one tenant.

    Args:
        secret: The fleet's.
        tenant: Its name.

    Raises:
        SecretUnavailable: There is no secret yet: what has begun as a stream could not be refused any more.
    """

    def __init__(self, secret: FleetSecret, tenant: str) -> None:
        secret.check()
        self._secret = secret
        self._tenant = tenant

    def seal(self, thought: Thought, purpose: Purpose = "responses reasoning") -> str:
        """The encrypted text of a thought, or of a conversation in short."""
        said = {"tenant": self._tenant, "text": thought.text, "redacted": thought.redacted}
        # A model may say half of a surrogate pair, which is no character and no UTF-8.
        return self._secret.seal(purpose, json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    def open(self, sealed: str, purpose: Purpose = "responses reasoning") -> Thought | None:
        """What was encrypted; None: not by this fleet, or for another tenant or purpose."""
        data = self._secret.open(purpose, sealed)
        if data is None:
            return None
        said: dict[str, Any] = json.loads(data.decode("utf-8", "surrogatepass"))
        return Thought(said["text"], said["redacted"]) if said["tenant"] == self._tenant else None


async def thoughts_of(items: Sequence[tuple[SaidItem, Location]], sealer: Sealer) -> Mapping[int, Thought]:
    """What was thought, of each item of reasoning, by its index; and so each conversation that was made short.

    Args:
        items: Those of a conversation, each with where the caller has it.
        sealer: Opens what is encrypted.

    Raises:
        InvalidRequest: An encrypted text is not as it came in an answer; names it.
        SecretUnavailable: There is no secret to tell that by.
    """
    turns = Turns()
    found: dict[int, Thought] = {}
    for index, (item, place) in enumerate(items):
        if isinstance(item, ReasoningItem) and item.encrypted_content is None:
            found[index] = Thought("\n".join(piece.text for piece in item.content or ()))
        elif isinstance(item, ReasoningItem):
            found[index] = _opened(item.encrypted_content or "", sealer, "responses reasoning", place)
            await turns.pause()
        elif isinstance(item, CompactionItem):
            found[index] = _opened(item.encrypted_content, sealer, "responses compaction", place)
            await turns.pause()
    return found


def _opened(sealed: str, sealer: Sealer, purpose: Purpose, place: Location) -> Thought:
    opened = sealer.open(sealed, purpose) if len(sealed) <= _MOST_CHARS else None
    if opened is None:
        raise wrong_at(
            (*place, "encrypted_content"),
            "it is not what this item came with. Send items back as they came, to the server that they came from and "
            "with a key of the same tenant, or leave them out.",
        )
    return opened
