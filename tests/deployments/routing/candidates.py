"""Candidates and requests for the routing tests."""

from dataclasses import dataclass

from hypothesis import strategies as st

from engines.requests import GenerateRequest

REQUEST = GenerateRequest(model="m", prompt="hello")


@dataclass
class Server:
    id: str
    load: int = 0
    queued_tokens: int = 0
    prefill_rate: float = 0.0
    wake_s: float = 0.0
    is_asleep: bool = False
    is_full: bool = False
    accelerator: str = "cpu"
    incarnation: int = 0
    cache_tokens: int = 0
    written_tokens: int = 0
    reports_cache: bool = False
    cache_block_tokens: int = 1


servers = st.lists(
    st.builds(Server, id=st.text("abcdefgh0123456789-", min_size=1, max_size=6), load=st.integers(0, 50)),
    min_size=1,
    max_size=12,
    unique_by=lambda server: server.id,
)
