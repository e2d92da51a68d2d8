"""An engine without weights: the scheduler, KV cache, step times and text of one, simulated."""
