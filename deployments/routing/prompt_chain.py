"""A prompt as a chain of hashes, made of its text: prompts that begin alike have chains that begin alike.

Only the engine knows a prompt's tokens, and to tokenize here would cost more than all the rest of routing. So the text
is hashed: first what holds for all of it (model, adapter, the tenant's salt, tools, template arguments), then message
by message, in the chunks of `engines.prefix_chunks`. Prompts of token ids are cut every `CHUNK_IDS`. Each hash covers
all that comes before it, and all of them are keyed: nobody outside can make two prompts look alike, and tenants share
nothing.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from engines.call_requests import Request
from engines.messages import MediaPart, Message
from engines.prefix_chunks import (
    HASH_BYTES,
    MAX_BYTES,
    ChainState,
    Chunks,
    SentChain,
    next_digest,
    pack,
    plain_message,
    prefix_of,
)
from engines.requests import GenerateRequest

CHUNK_IDS = 256
BYTES_PER_TOKEN = 4
"""What a text is reckoned by, before an engine has read any."""
MAX_IDS = MAX_BYTES // BYTES_PER_TOKEN
MAX_MESSAGES = 2048
"""What is behind any of these is counted and not hashed: it belongs to no chain."""
_MESSAGE_BYTES = 16
"""What a chat template adds to a message, about."""


class PromptChain:
    """What routing knows of a prompt.

    Attributes:
        prefixes: The hash of each prefix, the shortest first.
        ends: How many tokens each has, as far as its text tells.
        tokens: How many the whole prompt has, likewise.
        is_text: Whether that is reckoned; else they are counted.
        state: Where its answer goes on, if that is a message.
    """

    __slots__ = ("ends", "is_text", "prefixes", "state", "tokens")

    def __init__(
        self,
        prefixes: list[int],
        ends: list[int],
        tokens: int,
        *,
        is_text: bool = True,
        state: ChainState | None = None,
    ) -> None:
        self.prefixes = prefixes
        self.ends = ends
        self.tokens = tokens
        self.is_text = is_text
        self.state = state

    def sent(self) -> SentChain:
        """What an instance is told of it."""
        return SentChain(pack(self.prefixes), pack(self.ends), self.tokens, self.state)


class ChainHasher:
    """Makes chains of one model's prompts.

    Args:
        model: Its name.
        key: Says the key of the hashes; with another one prompts have other chains.
    """

    def __init__(self, model: str, key: Callable[[], bytes]) -> None:
        self._model = model
        self._key = key

    def chain(self, request: Request) -> PromptChain:
        """The chain of a request's prompt; an empty one for what does not generate: of that nothing is cached."""
        if not isinstance(request, GenerateRequest):
            return PromptChain([], [], self.tokens(request))
        if request.prompt_token_ids is not None:
            return self._of_ids(request.prompt_token_ids, self._root(request, "ids"))
        if request.messages is None:
            text = request.prompt or ""
            # No character is shorter than a byte, so that nothing longer than that is looked at.
            chunks = self._chunks(request, f"text {request.add_special_tokens}")
            chunks.add(text[:MAX_BYTES].encode("utf-8", "surrogatepass"))
            return _chain(chunks, max(0, len(text) - MAX_BYTES))
        return self._of_messages(request, request.messages)

    def tokens(self, request: Request) -> int:
        """How many tokens a request's prompt has, as far as its text tells, and without its chain."""
        if not isinstance(request, GenerateRequest):
            return request.size // BYTES_PER_TOKEN if request.runs_model else 0
        if request.prompt_token_ids is not None:
            return len(request.prompt_token_ids)
        if request.messages is None:
            return 1 + len(request.prompt or "") // BYTES_PER_TOKEN
        return 1 + sum(map(_size, request.messages)) // BYTES_PER_TOKEN

    def _of_messages(self, request: GenerateRequest, messages: Sequence[Message]) -> PromptChain:
        chunks = self._chunks(request, f"messages {_template_arguments(request)}")
        for tool in request.tools:
            if chunks.is_full:
                break
            chunks.add(_json(tool.for_template()))
        chunks.close_message()
        digests = (attachment.known_digest for attachment in request.attachments)
        hashed = 0
        for message in messages[:MAX_MESSAGES]:
            if chunks.is_full:
                break
            text = _hashed(message, digests)
            if text is None:
                break
            chunks.add(text)
            chunks.close_message()
            hashed += 1
        # The answer is the next message, unless it goes on with the last one.
        goes_on = hashed == len(messages) and request.add_generation_prompt and not chunks.is_full
        return _chain(chunks, sum(map(_size, messages[hashed:])), chunks.state if goes_on else None)

    def _of_ids(self, ids: list[int], digest: bytes) -> PromptChain:
        prefixes, ends = [], []
        for start in range(0, min(len(ids), MAX_IDS), CHUNK_IDS):
            chunk = ids[start : start + CHUNK_IDS]
            digest = next_digest(b"%d" % hash(tuple(chunk)), digest)
            prefixes.append(prefix_of(digest))
            ends.append(start + len(chunk))
        return PromptChain(prefixes, ends, len(ids), is_text=False)

    def _chunks(self, request: GenerateRequest, kind: str) -> Chunks:
        return Chunks(ChainState(self._root(request, kind), b"", 0))

    def _root(self, request: GenerateRequest, kind: str) -> bytes:
        what = json.dumps((self._model, request.adapter, request.cache_salt, kind)).encode()
        return blake2b(what, digest_size=HASH_BYTES, key=self._key()).digest()


def _chain(chunks: Chunks, more_bytes: int, state: ChainState | None = None) -> PromptChain:
    """The chain, of a prompt that has so many bytes more than were added."""
    chunks.close()
    ends = [-(-end // BYTES_PER_TOKEN) for end in chunks.ends]
    return PromptChain(chunks.prefixes, ends, -(-(chunks.size + more_bytes) // BYTES_PER_TOKEN), state=state)


def _template_arguments(request: GenerateRequest) -> str:
    arguments = request.chat_template_kwargs
    if not (arguments or request.thinking or request.reasoning_effort):
        return ""
    thinking = request.thinking and request.thinking.model_dump()
    return _json((arguments, thinking, request.reasoning_effort)).decode()


def _json(value: Any) -> bytes:
    # Python's own: pydantic's fails on half a surrogate pair, which a caller may send.
    return json.dumps(value, sort_keys=True, default=str).encode()


def _hashed(message: Message, digests: Iterator[str]) -> bytes | None:
    """A message as it is hashed; None where it holds data that nobody has read so far: that takes too long here."""
    content = message.content
    if isinstance(content, str) and not (
        message.tool_calls or message.name or message.tool_call_id or message.reasoning_content or message.model_extra
    ):
        return plain_message(message.role, content)
    text = _json(message.for_template())
    if isinstance(content, list):
        for part in content:
            if isinstance(part, MediaPart):
                digest = next(digests, "")
                if not (digest or part.data):
                    return None
                text += digest.encode()
    return text


def _size(message: Message) -> int:
    """About how many bytes it adds to a prompt."""
    content = message.content or ""
    if isinstance(content, str):
        return _MESSAGE_BYTES + len(content)
    return _MESSAGE_BYTES + sum(len(getattr(part, "text", "")) for part in content)
