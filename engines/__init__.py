"""The contract, and every engine that speaks it inside one process. Knows nothing of Ray."""
