"""Folders and files that only this user can change: what another user of the machine has planted is not taken for one.

Everything is looked at without following symbolic links, and through descriptors where it is changed after that.
"""

import os
import stat
from pathlib import Path

from engines.errors import PenstockError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_BYTES = 2**16


class NotPrivate(PenstockError):
    """What should be this user's alone is not; the message names the path and what to do."""

    code = "not_private"


def private_folder(path: Path) -> Path:
    """Makes a folder, and its parents, that only this user can enter; one of this user that others can enter is closed.

    Raises:
        NotPrivate: Another user's, a symbolic link, or no folder is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.mkdir(mode=0o700, exist_ok=True)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise _not_private(path, "it is no folder, or a symbolic link") from error
    try:
        found = os.fstat(folder)
        if found.st_uid != os.getuid():
            raise _not_private(path, f"it belongs to another user (id {found.st_uid})")
        if found.st_mode & OTHERS:
            os.fchmod(folder, 0o700)
    finally:
        os.close(folder)
    return path


def is_private_folder(path: Path) -> bool:
    """Whether it is a folder of this user that nobody else can enter, and no symbolic link to one."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & OTHERS


def keeps_others_out(path: Path) -> bool:
    """Whether others cannot replace what this user makes in a folder.

    It is this user's or the system's, and others may not write in it, or it is sticky.
    """
    found = path.stat()
    closed = not found.st_mode & OTHERS_WRITE or found.st_mode & stat.S_ISVTX
    return bool(closed) and found.st_uid in (0, os.getuid())


def read_private(path: Path) -> str | None:
    """The text of a small file that only this user can write; None where there is no such file.

    A symbolic link, another user's file, and one that others may write are no such file.
    """
    try:
        # Not blocking: a pipe with nobody at its other end would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & OTHERS_WRITE
        if not ours or found.st_size > _MAX_BYTES:
            return None
        return file.read(_MAX_BYTES).decode(errors="replace")


def write_private(path: Path, text: str) -> None:
    """Writes a file that only this user can read, in place of one that is there, all at once."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def _not_private(path: Path, why: str) -> NotPrivate:
    return NotPrivate(f"{path} must be a folder of yours alone, and {why}. Remove it.")
