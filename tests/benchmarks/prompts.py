"""Requests that differ in their first words, so that no prefix cache helps one server and not the other."""

import json
import random

WORDS = ("river", "stone", "valve", "gauge", "lamp", "green", "paper", "bridge", "bread", "music", "winter", "island")


def prompt(seed: int, number: int) -> str:
    """The prompt with that number: the same for the same seed, and like no other.

    All are about as long; the number comes first, because prefix caches compare from the start.
    """
    rng = random.Random(seed * 1_000_003 + number)
    words = " ".join(rng.choice(WORDS) for _ in range(12))
    return f"{seed} {number} {words}"


def chat_request(host: str, model: str, text: str, tokens: int) -> bytes:
    """The HTTP request for a streamed chat completion of exactly so many tokens."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "temperature": 1.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
