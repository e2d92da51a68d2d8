"""Folders of runs: each start of a fleet has one for its logs and the files of its Ray, and the oldest are removed.

Where `XDG_RUNTIME_DIR` is a folder of this user alone they are in there, else each is one of its own in `/tmp`. Another
user can plant things in `/tmp`, so a folder is removed only if it is this user's alone, no symbolic link, and marked.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from clusters.errors import ClusterError
from deployments.private_folder import is_private_folder, keeps_others_out, private_folder, read_private, write_private

MARK = "penstock-run"
"""File that says that a folder is one of these, with the id of the process that made it."""
_KEPT = 5
_MAX_ROOT_CHARS = 30
"""The paths of Ray's sockets have 75 characters more, and may have 107 in all (103 on macOS)."""


def new_folder() -> Path:
    """Makes a folder for one start, and removes the oldest ones that no process uses.

    Raises:
        ClusterError: There is no folder in which other users cannot replace it.
        NotPrivate: Another user's folder is in its place.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and len(runtime) <= _MAX_ROOT_CHARS - len("/penstock") and is_private_folder(Path(runtime)):
        root, prefix = private_folder(Path(runtime) / "penstock"), ""
    else:
        root, prefix = _temp_folder(), f"penstock-{os.getuid()}-"
    _remove_old(path for path in root.iterdir() if path.name.startswith(prefix))
    folder = Path(tempfile.mkdtemp(dir=root, prefix=prefix))
    write_private(folder / MARK, str(os.getpid()))
    return folder


def ray_folder(folder: Path) -> Path:
    """Where the local Ray of a run keeps its files.

    Not the run's folder itself: Ray lets everybody write into its own, and only a folder around it keeps them out.
    """
    return folder / "ray"


def _temp_folder() -> Path:
    """`/tmp` wherever that is, as for Ray: the paths of its sockets have to be short."""
    # What is made in it is private, and others cannot replace it.
    folder = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108
    if not keeps_others_out(folder):
        raise ClusterError(
            f"Other users can replace what is in {folder}: it is another user's, or its sticky bit is not set "
            f"(`chmod +t {folder}`). Or name a folder of yours alone: XDG_RUNTIME_DIR"
        )
    return folder


def _remove_old(paths: Iterable[Path]) -> None:
    ours = [path for path in paths if _is_marked(path)]
    for old in sorted(ours, key=lambda path: path.lstat().st_mtime)[: 1 - _KEPT]:
        if not _is_used(old):
            # It does not follow links, at the top neither.
            shutil.rmtree(old, ignore_errors=True)


def _is_marked(path: Path) -> bool:
    return is_private_folder(path) and read_private(path / MARK) is not None


def _is_used(folder: Path) -> bool:
    try:
        os.kill(int(read_private(folder / MARK) or ""), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return False  # The id was taken by another user's process since.
    return True
