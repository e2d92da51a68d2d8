"""Ray clusters of tests."""

from typing import Any

import psutil
import ray

_TRIES = 3


def start_ray(**options: Any) -> None:
    """Starts a cluster of this process's own. Ray gives its daemons 30 s, which a busy machine may not have.

    Args:
        options: `ray.init`'s.
    """
    for left in reversed(range(_TRIES)):
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False, **options)
        except Exception:  # Ray raises no other.
            ray.shutdown()
            # It leaves its daemons running.
            for process in set(psutil.Process().children(recursive=True)) - before:
                process.kill()
            if not left:
                raise
        else:
            return
