"""The Ray of a local fleet: on loopback only, and guarded by a token that only this user can read."""

import os
import secrets
import stat
import tempfile
from pathlib import Path

import psutil

from clusters.errors import ClusterError
from deployments.loopback_ray import CLUSTER, LOOPBACK
from deployments.private_folder import OTHERS, OTHERS_WRITE
from deployments.ray_token import MODE

_TOKEN_BYTES = 32


def auth_mode(*, asks_for_token: bool) -> str:
    """The value of `RAY_AUTH_MODE` for a local fleet.

    Args:
        asks_for_token: Whether its Ray is to ask for a token; False: whoever reaches its ports may run code in it.

    Raises:
        ClusterError: The environment turns the token off, and the person did not say that it is meant.
    """
    if not asks_for_token:
        return "disabled"
    inherited = os.environ.get(MODE, "").strip().lower()
    if inherited == "disabled":
        raise ClusterError(
            f"{MODE}=disabled in the environment would let every user of this machine run code in the fleet's Ray. "
            f"Unset it, or say that it is meant: --no-ray-auth"
        )
    return inherited or "token"


def loopback_environment() -> dict[str, str]:
    """What keeps the processes of a local fleet on loopback, by environment variable; what the user has set holds.

    Ray's own variable is not the user's choice: without it Ray listens on every interface.
    """
    loopbacks = (
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == LOOPBACK for address in addresses)
    )
    interface = next(loopbacks, None)
    engines = {"VLLM_HOST_IP": LOOPBACK}
    if interface is not None:
        # What the ranks of one vLLM instance meet over; by default on the interface of the machine's own address.
        engines |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return {name: os.environ.get(name, value) for name, value in engines.items()} | {CLUSTER: "0"}


def keep_token_private() -> None:
    """Makes sure that Ray's token is there, and that only this user can read and replace it.

    Ray would make the file readable for everybody. A token that the user names by `RAY_AUTH_TOKEN` or
    `RAY_AUTH_TOKEN_PATH` is left as it is.

    Raises:
        ClusterError: It is another user's, or it cannot be made.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close(path.parent, OTHERS_WRITE)
        if not path.exists():
            _make_token(path)
        _close(path, OTHERS)
    except OSError as error:
        raise ClusterError(f"Ray's token cannot be kept in {error.filename or path}: {error.strerror}.") from error


def _make_token(path: Path) -> None:
    # Whole from the moment it is there: another fleet may start just now.
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=".auth_token")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_TOKEN_BYTES))
        os.link(new, path)
    except FileExistsError:
        return
    finally:
        Path(new).unlink()


def _close(path: Path, bits: int) -> None:
    """Takes these bits off the mode.

    Raises:
        ClusterError: It is another user's.
    """
    found = path.stat()
    if found.st_uid != os.getuid():
        raise ClusterError(
            f"{path} belongs to another user (id {found.st_uid}), who can read what Ray's token guards. Remove it, or "
            f"name a token of your own: RAY_AUTH_TOKEN_PATH"
        )
    if found.st_mode & bits:
        path.chmod(stat.S_IMODE(found.st_mode) & ~bits)
