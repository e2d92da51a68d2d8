"""Routing: which instance takes a request, and the engine that sends it there."""
