"""The HTTP ingress: OpenAI's API over a fleet."""
