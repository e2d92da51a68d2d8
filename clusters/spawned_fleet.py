"""The command line's end of the fleet process: starts it, hears its reports, ends it and all that it started."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import clusters
from clusters import process_session
from clusters.fleet_protocol import Job, Report, decode_report, encode
from clusters.local_ray import auth_mode, keep_token_private, loopback_environment
from deployments.ray_token import MODE

_GRACE_S = 3.0
LOG_NAME = "fleet.log"


class SpawnedFleet:
    """One fleet process and its session.

    Args:
        job: What to run; its folder is there and empty.
        asks_for_token: Whether the Ray of a local fleet is to ask for a token.

    Attributes:
        reports: What it reports; None once the process has ended.

    Raises:
        ClusterError: Ray's token is turned off by the environment, or cannot be kept private.
    """

    def __init__(self, job: Job, *, asks_for_token: bool = True) -> None:
        environment = _environment()
        if job.address is None:
            environment |= _local_environment(asks_for_token=asks_for_token)
        # Not a SimpleQueue: where a signal comes just as its timeout ends, CPython 3.11 waits on for good.
        self.reports: queue.Queue[Report | None] = queue.Queue()
        reading, writing = os.pipe()
        try:
            with (job.folder / LOG_NAME).open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-m", "clusters.fleet_process", str(writing)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(writing,),
                    # Ray puts the driver's directory before everything else on its workers' import path, so it
                    # must be one in which nothing can be called `engines` or `actors`.
                    cwd=job.folder,
                    env=environment,
                    start_new_session=True,
                )
        finally:
            os.close(writing)
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It died at once; `reports` says so.
            self._process.stdin.write(encode(job))
            self._process.stdin.flush()

    def stop(self) -> None:
        """Asks it to drain and end; returns at once. Idempotent."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def has_ended(self) -> bool:
        """Whether the process itself has ended."""
        return self._process.poll() is not None

    def finish(self, grace_s: float = _GRACE_S) -> None:
        """Ends whatever is left of its session: the process first, then what it left behind.

        Args:
            grace_s: Seconds from the asking to the killing.
        """
        self.stop()
        process_session.end(self._process.pid, grace_s=grace_s)
        self._process.wait()

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                self.reports.put(decode_report(line))
        self.reports.put(None)


_QUIET = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
}


def _environment() -> dict[str, str]:
    """What the fleet process and all Ray processes below it find in their environment."""
    root = str(Path(clusters.__file__).parent.parent)
    path = os.environ.get("PYTHONPATH")
    loopback = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1,localhost")))
    environment = {
        **os.environ,
        # Ours first: names such as `engines` are common.
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Under `uv run` Ray would pack the working directory and send it to the workers.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # Without it Ray shows all GPUs to an actor that asks for none: the router, or an engine with `gpus: 0`.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": os.environ.get("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1"),
        # gRPC takes proxies from the environment even to this machine.
        "no_proxy": loopback,
        "NO_PROXY": loopback,
        # A cluster of one machine, for one fleet, whose dashboard is off: what Ray and Serve do all day for others
        # costs a small machine a tenth of a core.
        **{name: os.environ.get(name, value) for name, value in _QUIET.items()},
    }
    environment.pop("RAY_ADDRESS", None)
    return environment


def _local_environment(*, asks_for_token: bool) -> dict[str, str]:
    """What keeps others out of a local fleet: loopback, and the token."""
    mode = auth_mode(asks_for_token=asks_for_token)
    if mode == "token":
        keep_token_private()
    return loopback_environment() | {MODE: mode}
