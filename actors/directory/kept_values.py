"""Small values that outlive every process of a fleet: they are in Ray's own control service."""

from typing import Protocol

import ray
from ray.experimental import internal_kv

from actors.ray_private import KEEPS_VALUES
from engines.errors import Unavailable


class Values(Protocol):
    """Values by key. Access may block."""

    def load(self, key: str) -> bytes | None:
        """The value of a key; None: there is none."""

    def save(self, key: str, value: bytes) -> None:
        """Keeps a value, in place of an earlier one."""

    def agree(self, key: str, value: bytes) -> bytes:
        """The value of a key, for everybody the same; where there was none, this one from now on."""


class MemoryValues:
    """Values of this process alone."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def load(self, key: str) -> bytes | None:
        """The value of a key; None: there is none."""
        return self._values.get(key)

    def save(self, key: str, value: bytes) -> None:
        """Keeps a value, in place of an earlier one."""
        self._values[key] = value

    def agree(self, key: str, value: bytes) -> bytes:
        """The value of a key; where there was none, this one from now on."""
        return self._values.setdefault(key, value)


class KeptValues:
    """The values of one fleet. Each access asks Ray's control service, and blocks until it has answered.

    Args:
        fleet: The fleet's name.
    """

    def __init__(self, fleet: str) -> None:
        self._namespace = f"penstock/{fleet}"

    def load(self, key: str) -> bytes | None:
        """The value of a key; None: there is none.

        Raises:
            Unavailable: This version of Ray keeps them elsewhere.
        """
        _check()
        value: bytes | None = internal_kv._internal_kv_get(key, namespace=self._namespace)
        return value

    def save(self, key: str, value: bytes) -> None:
        """Keeps a value, in place of an earlier one. Raises what `load` raises."""
        _check()
        internal_kv._internal_kv_put(key, value, namespace=self._namespace)

    def agree(self, key: str, value: bytes) -> bytes:
        """The value of a key; where there was none, this one from now on. Raises what `load` raises."""
        _check()
        internal_kv._internal_kv_put(key, value, overwrite=False, namespace=self._namespace)
        kept = self.load(key)
        assert kept is not None
        return kept


def _check() -> None:
    if not KEEPS_VALUES:
        raise Unavailable(f"Ray {ray.__version__} has no place for what must outlive the directory.")
