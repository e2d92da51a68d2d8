"""LoRA adapters: small changes to a model's weights, each served as a model of its own over the weights of its base."""
