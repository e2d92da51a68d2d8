"""OpenAI's API: its routes, bodies, streams and errors."""
