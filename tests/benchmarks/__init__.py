"""Benchmarks: Penstock beside the bare engine, its memory, and what its own path costs."""
