"""What an engine is asked for and answers at once, without a stream: vectors, token ids, text of ids.

A new kind of call is one class, here or in a file of its own as in `engines.pooling_requests`, and its answer in the
engines that have one (`Engine.answers`): what is between a caller and an engine passes on what it knows nothing of.
"""

import struct
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, model_validator

from engines.messages import Message, Tool
from engines.requests import (
    AttachmentList,
    GenerateRequest,
    RequestModel,
    Session,
    TenantShare,
    Thinking,
    TokenIds,
    check_attachments,
)

FLOAT_BYTES = 4
"""Bytes of one number of a vector."""
MAX_DIMENSIONS = 65_536
"""Of a vector that is asked for: more than any model has."""
ID_BYTES = 4
"""What a token id counts."""
_MESSAGE_BYTES = 64
"""What a message or a tool counts besides its text: it is looked at one by one."""

MAX_INPUTS = 2048
"""Of one request."""

Answer = TypeVar("Answer")
Inputs = Annotated[
    Annotated[list[str], Field(fail_fast=True)]
    | Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(fail_fast=True)],
    Field(min_length=1, max_length=MAX_INPUTS),
]
"""Texts, or lists of token ids."""


class CallRequest(RequestModel, Generic[Answer]):
    """Asks for an `Answer`.

    Attributes:
        capability: The field of `Capabilities` without which an engine refuses it.
        purpose: What a model does with it, for messages: it "does not make embeddings".
        operation: What traces call it.
        runs_model: Whether it is work for the model, and so for the accelerator, rather than for its tokenizer.
        model: Name of the model.
        session, instance, priority, tenant, adapter: As in `GenerateRequest`.
    """

    capability: ClassVar[str]
    purpose: ClassVar[str]
    operation: ClassVar[str]
    runs_model: ClassVar[bool] = False

    model: str
    session: Session | None = None
    instance: str | None = None
    priority: int = Field(0, ge=-100, le=100)
    tenant: TenantShare | None = None
    adapter: str | None = None

    @property
    def cache_salt(self) -> str:
        """Its tenant's; empty where there is none."""
        return self.tenant.cache_salt if self.tenant is not None else ""

    @property
    def size(self) -> int:
        """About how many bytes there are to work on."""
        raise NotImplementedError


class ModelAnswer(RequestModel):
    """What the model itself has worked for.

    Attributes:
        prompt_tokens: Tokens of all that it has read.
        engine: Name of the engine that answered.
    """

    prompt_tokens: int
    engine: str


class Embeddings(ModelAnswer):
    """The vectors, in the order of the inputs.

    Numbers by the million are no Python objects on their way: `numpy.frombuffer(vectors, "<f4").reshape(-1, dimension)`
    reads them, and `floats` does for a few.

    Attributes:
        vectors: All of them one after another, as 32-bit floats, little-endian.
        dimension: Floats of one vector.
    """

    vectors: bytes
    dimension: int = Field(ge=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.vectors) % (FLOAT_BYTES * self.dimension):
            raise ValueError(f"{len(self.vectors)} bytes are no whole number of vectors of {self.dimension} floats")
        return self

    def __len__(self) -> int:
        """How many there are."""
        return len(self.vectors) // (FLOAT_BYTES * self.dimension)

    def packed(self, index: int) -> bytes:
        """One vector, as it is in `vectors`."""
        size = FLOAT_BYTES * self.dimension
        return self.vectors[index * size : (index + 1) * size]

    def floats(self, index: int) -> tuple[float, ...]:
        """One vector, as numbers."""
        return struct.unpack(f"<{self.dimension}f", self.packed(index))


def inputs_size(inputs: list[str] | list[list[int]]) -> int:
    """About how many bytes the inputs are."""
    return sum(len(item) if isinstance(item, str) else ID_BYTES * len(item) for item in inputs)


class EmbedRequest(CallRequest[Embeddings]):
    """Asks for one vector per input.

    Attributes:
        inputs: Texts, or lists of token ids.
        dimensions: Length of the vectors, for models that can shorten them; None: their own.
        truncate_prompt_tokens: Keeps only so many tokens of each input; -1: what fits; None: too long is an error.
    """

    capability = "embed"
    purpose = "make embeddings"
    operation = "embeddings"
    runs_model = True

    inputs: Inputs
    dimensions: int | None = Field(None, ge=1, le=MAX_DIMENSIONS)
    truncate_prompt_tokens: int | None = Field(None, ge=-1)

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return inputs_size(self.inputs)


class Tokenized(RequestModel):
    """Token ids, the longest context of the model in tokens, and the tokens as text where they were asked for."""

    token_ids: list[int]
    context_length: int
    tokens: list[str] | None = None


class TokenizeRequest(CallRequest[Tokenized]):
    """Asks for the token ids of a text, or of a conversation as its chat template renders it.

    Attributes:
        return_tokens: Whether the tokens are wanted as text, too.
        thinking, attachments: As in `GenerateRequest`.
    """

    capability = "tokenize"
    purpose = "tokenize"
    operation = "tokenize"

    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = Field(None, min_length=1)
    tools: list[Tool] = []
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] = {}
    thinking: Thinking | None = None
    return_tokens: bool = False
    attachments: AttachmentList = []

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        check_attachments(self.messages, self.attachments)
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt, messages")
        return self

    @property
    def size(self) -> int:
        """Bytes of the text, as far as it is known: a chat template may read other fields of a message, too.

        Of those there is no end; the body's own limits hold them.
        """
        if self.messages is None:
            return len(self.prompt or "")
        size = _MESSAGE_BYTES * (len(self.messages) + len(self.tools))
        for message in self.messages:
            content = message.content or ""
            texts = [content] if isinstance(content, str) else [getattr(part, "text", "") for part in content]
            size += sum(map(len, texts))
        return size


class DetokenizeRequest(CallRequest[str]):
    """Asks for the text of token ids."""

    capability = "tokenize"
    purpose = "detokenize"
    operation = "detokenize"

    token_ids: TokenIds

    @property
    def size(self) -> int:
        """Bytes of the ids."""
        return ID_BYTES * len(self.token_ids)


Request = GenerateRequest | CallRequest[Any]
"""What an engine can be asked."""
