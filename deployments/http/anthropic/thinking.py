"""Thinking: how much of it is asked for, and its signature, without which none is taken back.

A signature says that a model of this fleet has thought this text. It is `CARRIED.MAC`: the MAC is of the text's
SHA-256, and what is carried is the text itself, in base64, where the client asked not to be shown it (`display:
omitted`), so that the model has it in the next turn all the same.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from deployments.fleet_secret import FleetSecret
from deployments.http.anthropic.blocks import InputMessage, ThinkingBlock
from deployments.http.server.body_parts import Strict
from deployments.http.server.names import Location
from deployments.http.server.validation import wrong_at
from engines.attachments import base64_text
from engines.requests import Thinking
from engines.turns import Turns

_PURPOSE = "anthropic thinking"
_SLICE = 256 * 1024


class ThinkingBody(Strict):
    """Whether the model thinks first."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted"] | None = None

    @model_validator(mode="after")
    def _a_budget_where_it_is_enabled(self) -> Self:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise ValueError("the type 'enabled' needs budget_tokens, which no other type has; 'adaptive' needs none")
        return self

    def for_engine(self) -> Thinking:
        """The same as engines take it."""
        return Thinking(enabled=self.type != "disabled", budget_tokens=self.budget_tokens)


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Thought:
    """The thinking of one block, piece by piece.

    Args:
        secret: Signs it.
        shown: Whether the client is shown it; its signature carries it otherwise.
    """

    __slots__ = ("_digest", "_hidden", "_secret", "shown")

    def __init__(self, secret: FleetSecret, *, shown: bool) -> None:
        self.shown = shown
        self._secret = secret
        self._digest: _Digest = hashlib.sha256()
        self._hidden: list[bytes] = []

    def add(self, text: str) -> None:
        """Takes the next piece."""
        data = _bytes(text)
        self._digest.update(data)
        if not self.shown:
            self._hidden.append(data)

    def signature(self) -> str:
        """The signature of all pieces."""
        carried = base64.b64encode(b"".join(self._hidden)).decode("ascii")
        return f"{carried}.{self._secret.sign(_PURPOSE, self._digest.digest())}"


async def thinking_of(messages: Sequence[InputMessage], secret: FleetSecret) -> Mapping[Location, str]:
    """What the model has thought, of each block of thinking in a conversation, by the block's place.

    Raises:
        InvalidRequest: A block is not as it came in an answer; names its signature.
        SecretUnavailable: There is no secret yet to tell that by.
    """
    turns = Turns()
    found: dict[Location, str] = {}
    for index, message in enumerate(messages):
        for at, block in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(block, ThinkingBlock):
                place: Location = ("messages", index, "content", at)
                text = await _verified(block, secret, turns)
                if text is None:
                    raise wrong_at(
                        (*place, "signature"),
                        "it is not the signature that this thinking came with. Send blocks of thinking back as they "
                        "came, or leave them out.",
                    )
                found[place] = text
                await turns.pause()
    return found


async def _verified(block: ThinkingBlock, secret: FleetSecret, turns: Turns) -> str | None:
    """The text of a block; None: the fleet has not signed it."""
    carried, _, mac = block.signature.partition(".")
    if carried and block.thinking:
        return None
    try:
        data = await base64_text.decode(carried) if carried else _bytes(block.thinking)
        text = data.decode("utf-8", "surrogatepass") if carried else block.thinking
    except ValueError:
        return None
    digest = hashlib.sha256()
    for start in range(0, len(data), _SLICE):
        digest.update(data[start : start + _SLICE])
        await turns.pause()
    return text if secret.verify(_PURPOSE, digest.digest(), mac) else None


def _bytes(text: str) -> bytes:
    # A model may say half of a surrogate pair, which is no character and no UTF-8.
    return text.encode("utf-8", "surrogatepass")
