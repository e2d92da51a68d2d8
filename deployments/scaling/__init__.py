"""How many instances each model should have, from what the router replicas report of it."""
