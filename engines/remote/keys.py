"""API keys of providers: from the environment or from a file, and never in a message."""

import os
from pathlib import Path

from engines.errors import ProviderRefused


class KeySource:
    """Where a provider's API key comes from. Nothing that it says or shows has the key in it.

    Args:
        variable: Name of the environment variable that holds it, or None.
        file: Path of the file that holds it, or None. Without either there is no key.
    """

    __slots__ = ("_file", "_key", "_seen", "_variable")

    def __init__(self, variable: str | None, file: str | None) -> None:
        self._variable = variable
        self._file = None if file is None else Path(file)
        self._key: str | None = None
        self._seen: tuple[int, int, int] | None = None

    def __repr__(self) -> str:
        return f"KeySource(variable={self._variable!r}, file={None if self._file is None else str(self._file)!r})"

    def key(self) -> str | None:
        """The key as it is now, or None where none is configured. A file is read only when it has changed.

        Raises:
            ProviderRefused: There is none where there should be one, or it cannot be one.
        """
        if self._variable is not None:
            return _checked(os.environ.get(self._variable), "environment variable of the API key")
        if self._file is None:
            return None
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._key = _checked(self._file.read_text(), "file of the API key")
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(f"The file of the API key cannot be read: {type(error).__name__}.") from None
        return self._key


def _checked(text: str | None, what: str) -> str:
    key = (text or "").strip()
    if not key:
        raise _unusable(f"The {what} is not set, or empty.")
    # It goes into a header: a line break in it would begin another one.
    if not (key.isascii() and key.isprintable()):
        raise _unusable(f"The {what} holds characters that no key has.")
    return key


def _unusable(message: str) -> ProviderRefused:
    return ProviderRefused(message, reason="unauthorized")
