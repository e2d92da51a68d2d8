"""Databases to store chat completions in."""

from tests.deployments.database.conftest import server, settings

__all__ = ["server", "settings"]
