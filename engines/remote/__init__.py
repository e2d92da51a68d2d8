"""Engines whose model runs elsewhere: behind the API of a provider, or of another server, asked over HTTP."""
