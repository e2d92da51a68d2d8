"""Embeddings, and what vLLM's server adds: tokenizing and detokenizing. Requests as bodies, answers as ours."""

import base64
import binascii
import struct
from typing import Any

from engines.call_requests import (
    FLOAT_BYTES,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Tokenized,
    TokenizeRequest,
)
from engines.errors import EngineFailed, Unsupported
from engines.remote.json_fields import as_count, as_dict, as_list


def embed_body(request: EmbedRequest, model: str, *, vllm: bool) -> dict[str, Any]:
    """The body for `/embeddings`.

    Raises:
        Unsupported: The server cannot take a field of the request.
    """
    body: dict[str, Any] = {"model": model, "input": request.inputs, "encoding_format": "base64"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.truncate_prompt_tokens is not None:
        if not vllm:
            raise Unsupported("The server behind this model does not truncate inputs.", param="truncate_prompt_tokens")
        body["truncate_prompt_tokens"] = request.truncate_prompt_tokens
    return body


def embeddings(answer: Any, request: EmbedRequest, engine: str) -> Embeddings:
    """The vectors in an answer of `/embeddings`, in base64 or as numbers; takes them out of the answer.

    May take long: for a thread beside the event loop.

    Raises:
        EngineFailed: They are not those that were asked for.
    """
    entries = [entry for entry in as_list(as_dict(answer).get("data")) if isinstance(entry, dict)]
    entries.sort(key=lambda entry: as_count(entry.get("index")))
    # Taken out one by one: all numbers at once would be freed in one long step, and all threads wait for that.
    vectors = [_packed(entry.pop("embedding", None)) for entry in entries]
    sizes = set(map(len, vectors))
    if len(vectors) != len(request.inputs) or len(sizes) != 1 or 0 in sizes or min(sizes) % FLOAT_BYTES:
        raise EngineFailed(f"The server behind {engine} did not give one vector per input.", instance=engine)
    return Embeddings(
        vectors=b"".join(vectors),
        dimension=sizes.pop() // FLOAT_BYTES,
        prompt_tokens=as_count(as_dict(as_dict(answer).get("usage")).get("prompt_tokens")),
        engine=engine,
    )


def tokenize_body(request: TokenizeRequest, model: str) -> dict[str, Any]:
    """The body for `/tokenize`.

    Raises:
        Unsupported: The server cannot take a field of the request.
    """
    body: dict[str, Any] = {"model": model}
    if request.messages is None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [message.for_template() for message in request.messages]
        body["add_generation_prompt"] = request.add_generation_prompt
        body["continue_final_message"] = request.continue_final_message
        if request.tools:
            body["tools"] = [tool.for_template() for tool in request.tools]
        kwargs = request.chat_template_kwargs
        if request.thinking is not None:
            kwargs = request.thinking.for_template() | kwargs
        if kwargs:
            body["chat_template_kwargs"] = kwargs
    if request.add_special_tokens is not None:
        body["add_special_tokens"] = request.add_special_tokens
    if request.return_tokens:
        body["return_token_strs"] = True
    return body


def tokenized(answer: Any, engine: str) -> Tokenized:
    """The token ids in an answer of `/tokenize`.

    Raises:
        EngineFailed: There are none.
    """
    fields = as_dict(answer)
    token_ids = fields.get("tokens")
    texts = fields.get("token_strs")
    if not isinstance(token_ids, list) or not all(isinstance(token_id, int) for token_id in token_ids):
        raise EngineFailed(f"The server behind {engine} did not give token ids.", instance=engine)
    return Tokenized(
        token_ids=token_ids,
        context_length=as_count(fields.get("max_model_len")),
        tokens=[str(text) for text in texts] if isinstance(texts, list) else None,
    )


def detokenize_body(request: DetokenizeRequest, model: str) -> dict[str, Any]:
    """The body for `/detokenize`."""
    return {"model": model, "tokens": request.token_ids}


def detokenized(answer: Any, engine: str) -> str:
    """The text in an answer of `/detokenize`.

    Raises:
        EngineFailed: There is none.
    """
    text = as_dict(answer).get("prompt")
    if not isinstance(text, str):
        raise EngineFailed(f"The server behind {engine} did not give a text.", instance=engine)
    return text


def _packed(vector: Any) -> bytes:
    """A vector as 32-bit floats, little-endian; empty where it is none."""
    try:
        if isinstance(vector, str):
            return base64.b64decode(vector, validate=True)
        return struct.pack(f"<{len(vector)}f", *vector) if isinstance(vector, list) else b""
    except (binascii.Error, struct.error, OverflowError, ValueError):
        return b""
