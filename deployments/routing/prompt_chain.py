"""A prompt as a chain of hashes, made of its text: prompts that begin alike have chains that begin alike.

Only the engine knows a prompt's tokens, and to tokenize here would cost more than all the rest of routing. So the text
is hashed: first what holds for all of it (model, adapter, the tenant's salt, tools, template arguments), then message
by message. A long message is cut every `CHUNK_BYTES`; short ones are taken together, so that a chunk is never much
smaller than a block of a KV cache. Prompts of token ids are cut every `CHUNK_IDS`. Each hash covers all that comes
before it, and all of them are keyed: nobody outside can make two prompts look alike, and tenants share nothing.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from engines.call_requests import Request
from engines.messages import MediaPart, Message
from engines.requests import GenerateRequest

CHUNK_BYTES = 1024
CHUNK_IDS = 256
LEAST_BYTES = 128
"""A message that leaves less than so much shares its chunk with the next one."""
BYTES_PER_TOKEN = 4
"""What a text is reckoned by, before an engine has read any."""
MAX_BYTES = 1024 * 1024
MAX_IDS = MAX_BYTES // BYTES_PER_TOKEN
MAX_MESSAGES = 2048
"""What is behind any of these is counted and not hashed: it belongs to no chain."""
_MESSAGE_BYTES = 16
"""What a chat template adds to a message, about."""
_HASH_BYTES = 16
_PREFIX_SHIFT = 4
"""Prefixes have 60 bits: an int of these takes 32 bytes, one of 64 bits takes 48."""


class PromptChain:
    """What routing knows of a prompt.

    Attributes:
        prefixes: The hash of each prefix, the shortest first.
        ends: How many tokens each has, as far as its text tells.
        tokens: How many the whole prompt has, likewise.
        is_text: Whether that is reckoned; else they are counted.
    """

    __slots__ = ("ends", "is_text", "prefixes", "tokens")

    def __init__(self, prefixes: list[int], ends: list[int], tokens: int, *, is_text: bool = True) -> None:
        self.prefixes = prefixes
        self.ends = ends
        self.tokens = tokens
        self.is_text = is_text


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
            chunks = _Chunks(self._root(request, f"text {request.add_special_tokens}"))
            chunks.add(text[:MAX_BYTES].encode("utf-8", "surrogatepass"))
            return chunks.chain(max(0, len(text) - MAX_BYTES))
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
        chunks = _Chunks(self._root(request, f"messages {_template_arguments(request)}"))
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
        return chunks.chain(sum(map(_size, messages[hashed:])))

    def _of_ids(self, ids: list[int], digest: bytes) -> PromptChain:
        prefixes, ends = [], []
        for start in range(0, min(len(ids), MAX_IDS), CHUNK_IDS):
            chunk = ids[start : start + CHUNK_IDS]
            digest = blake2b(b"%d" % hash(tuple(chunk)), digest_size=_HASH_BYTES, key=digest).digest()
            prefixes.append(int.from_bytes(digest[:8]) >> _PREFIX_SHIFT)
            ends.append(start + len(chunk))
        return PromptChain(prefixes, ends, len(ids), is_text=False)

    def _root(self, request: GenerateRequest, kind: str) -> bytes:
        what = json.dumps((self._model, request.adapter, request.cache_salt, kind)).encode()
        return blake2b(what, digest_size=_HASH_BYTES, key=self._key()).digest()


class _Chunks:
    """Cuts text into chunks, and hashes each with all that comes before it."""

    def __init__(self, root: bytes) -> None:
        self._digest = root
        self._open = b""
        self._bytes = 0  # Of the chunks that are closed.
        self._prefixes: list[int] = []
        self._ends: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether no more should be added."""
        return self._bytes >= MAX_BYTES

    def add(self, text: bytes) -> None:
        """Takes more of the text, up to the limit."""
        text = self._open + text
        start = 0
        last = min(len(text), MAX_BYTES - self._bytes)
        while last - start >= CHUNK_BYTES:
            self._close(text[start : start + CHUNK_BYTES])
            start += CHUNK_BYTES
        self._open = text[start:]

    def close_message(self) -> None:
        """A message ends here, and a chunk with it where there is enough for one."""
        if len(self._open) >= LEAST_BYTES and not self.is_full:
            self._close(self._open)
            self._open = b""

    def chain(self, more_bytes: int) -> PromptChain:
        """The chain, of a prompt that has so many bytes more than were added."""
        if self._open and not self.is_full:
            self._close(self._open)
            self._open = b""
        size = self._bytes + len(self._open) + more_bytes
        return PromptChain(self._prefixes, self._ends, -(-size // BYTES_PER_TOKEN))

    def _close(self, chunk: bytes) -> None:
        digest = self._digest = blake2b(chunk, digest_size=_HASH_BYTES, key=self._digest).digest()
        self._prefixes.append(int.from_bytes(digest[:8]) >> _PREFIX_SHIFT)
        self._bytes += len(chunk)
        self._ends.append(-(-self._bytes // BYTES_PER_TOKEN))


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
        return b"\x00%b\x00%b" % (message.role.encode(), content.encode("utf-8", "surrogatepass"))
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
