"""Which addresses are this machine's own."""

import socket


def is_own_address(host: str, family: socket.AddressFamily = socket.AF_INET) -> bool:
    """Whether a program can listen on it: it is an address of this machine, or a name of one."""
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
