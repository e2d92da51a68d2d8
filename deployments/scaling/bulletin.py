"""Tells the fleet what its policy decided: a value on the directory's board, where the router replicas read it."""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from deployments.scaling.scaler import Decision

logger = logging.getLogger("ray.serve")

KEY = "scaling/decisions"
TTL_S = 30.0
"""How long a decision stands there, if none follows it."""
EVERY_S = 2.0
_DIRECTORY = "directory"
_CALL_S = 5.0
_IDLE_S = 60.0


class Bulletin:
    """Posts the latest decisions, in a thread of its own: the controller waits for nobody.

    Args:
        fleet: Name of the fleet, which is the Ray namespace of its directory.
    """

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._latest = b""
        self._is_new = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, decisions: Mapping[str, Decision]) -> None:
        """Posts these, in place of what was not posted yet."""
        self._latest = json.dumps({name: asdict(decision) for name, decision in decisions.items()}).encode()
        self._is_new.set()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._post_all, name="scaling bulletin", daemon=True)
            self._thread.start()

    def _post_all(self) -> None:
        import ray  # The rest of the package does without.

        directory: Any = None
        # A policy that was replaced tells nothing more.
        while self._is_new.wait(_IDLE_S):
            self._is_new.clear()
            try:
                if directory is None:
                    directory = ray.get_actor(_DIRECTORY, namespace=self._fleet)
                ray.get(directory.post.remote(KEY, self._latest, TTL_S), timeout=_CALL_S)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next one is told a moment later
                directory = None
                logger.debug("The autoscaling decisions were not posted: %s", type(error).__name__)
            threading.Event().wait(EVERY_S)
