"""The token that a Ray cluster may ask for: shown to clusters of this machine without being asked for."""

import os
from pathlib import Path

from deployments.own_address import is_own_address

MODE = "RAY_AUTH_MODE"


def offer_token(address: str) -> None:
    """Lets this process, and those that it starts, show the user's token to a cluster of this machine.

    Ray does so by itself only where no address is given. It reads the environment when it is imported: call this
    before. A cluster elsewhere must be meant (`RAY_AUTH_MODE=token`): whoever runs it gets to see the token.
    """
    if MODE not in os.environ and is_own_address(address.rpartition(":")[0]) and _has_token():
        os.environ[MODE] = "token"


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()
