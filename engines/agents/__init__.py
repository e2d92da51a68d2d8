"""The callers: what an application or an agent loop asks, wherever the tokens come from."""
