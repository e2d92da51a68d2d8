"""The token that a Ray cluster may ask for: shown to clusters of this machine without being asked for."""

import os
import socket
from pathlib import Path

MODE = "RAY_AUTH_MODE"


def offer_token(address: str) -> None:
    """Lets this process, and those that it starts, show the user's token to a cluster of this machine.

    Ray does so by itself only where no address is given. It reads the environment when it is imported: call this
    before. A cluster elsewhere must be meant (`RAY_AUTHMODE=token`): whoever runs it gets to see the token.
    """
    if MODE not in os.environ and _is_here(address) and _has_token():
        os.environ[MODE] = "token"


def _is_here(address: str) -> bool:
    """Whether the address is one of this machine."""
    try:
        with socket.socket() as probe:
            probe.bind((address.rpartition(":")[0], 0))
    except OSError:
        return False
    return True


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()
