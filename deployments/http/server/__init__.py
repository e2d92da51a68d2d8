"""Serving HTTP: connections, bodies, keys, streams. It knows no API."""
