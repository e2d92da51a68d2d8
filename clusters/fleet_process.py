"""The fleet process: brings a fleet up on Ray, reports how it goes, and takes it down again.

`python -m clusters.fleet_process FD` is started by `clusters.spawned_fleet` in a session of its own. Its first line of
input is a Job; the end of its input means stop. So whatever happens to the command line, a kill included, ends the
fleet. Reports go to the file descriptor FD; what Ray prints goes to the log.
"""

import asyncio
import http.client
import logging
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress

import ray
from ray import serve
from ray.exceptions import RayError

from actors.directory.client import DirectoryClient
from clusters import process_session
from clusters.answering import answering
from clusters.api_client import trusting_anybody
from clusters.boot_failure import has_given_up, reason
from clusters.cluster_room import missing_resources, share_gpus
from clusters.errors import ClusterError, first_line
from clusters.fleet_protocol import (
    Answering,
    ClusterUp,
    Failed,
    InstanceRow,
    Instances,
    Job,
    Phase,
    Ready,
    Report,
    encode,
)
from clusters.needs import logical_cpus
from clusters.ray_cluster import join
from clusters.run_folder import ray_folder
from deployments.app import deploy
from deployments.cluster_nodes import living_nodes
from deployments.http.key_source import is_loopback
from deployments.loopback_ray import LOOPBACK
from deployments.metric_exchange import GAUGES_PREFIX
from deployments.router_addresses import RouterAddress, told_addresses
from deployments.run_file import http_url

OBJECT_STORE_BYTES = 150 * 2**20
"""Nothing of ours goes through Ray's object store; its default is a third of the machine's memory."""
_RAY_TRIES = 3
_DAEMONS_END_S = 3.0
_FAILED_ONCE = "A replica failed to start with exception"
"""How Serve's message about a deployment begins whose replica it will try again."""
_POLL_S = 0.25
"""How often the screen is brought up to date while the fleet boots."""
_CALM_POLL_S = 2.0
"""The same once it is ready: nobody looks at a table any more, and two cores are not many."""
_PROBE_TIMEOUT_S = 2.0
_TELL_S = 15.0
"""How long the router replicas of a foreign cluster get to tell where they answer."""

_log = logging.getLogger(__name__)


class FleetProcess:
    """Brings one fleet up, watches it, takes it down.

    Args:
        job: What to do.
        reports: File descriptor that reports are written to.
        stop: Set when it is to end.
    """

    def __init__(self, job: Job, reports: int, stop: threading.Event) -> None:
        self._job = job
        self._reports = reports
        self._fleet = job.fleet
        self._stop = stop
        self._deployed = False
        self._ready = False

    def run(self) -> None:
        """Runs the fleet until it is told to stop; a fleet in a foreign cluster only until it is ready.

        Raises:
            ClusterError: It cannot run.
        """
        try:
            self._start_ray()
            self._wait_for_resources()
            if not self._stop.is_set():
                self._deploy()
                asyncio.run(self._watch())
        except ClusterError as error:
            self._report(Failed(message=error.message))
            raise
        except Exception as error:
            _log.exception("failed")
            self._report(Failed(message=f"{type(error).__name__}: {first_line(error)}"))
            raise
        finally:
            self._take_down()

    def _start_ray(self) -> None:
        if self._job.address is not None:
            self._report(Phase(text=f"connecting to {self._job.address}"))
            join(self._job.address, self._fleet.name)
        else:
            self._report(Phase(text="starting Ray"))
            self._start_local_ray()
            self._fleet = share_gpus(self._fleet, int(ray.cluster_resources().get("GPU", 0)))
        self._report(ClusterUp(address=ray.get_runtime_context().gcs_address))

    def _start_local_ray(self) -> None:
        for tries_left in reversed(range(_RAY_TRIES)):
            try:
                ray.init(
                    address="local",
                    namespace=self._fleet.name,
                    num_cpus=logical_cpus(self._fleet, os.cpu_count() or 1),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    _temp_dir=str(ray_folder(self._job.folder)),
                    # Only this machine: neither in reach of the network nor in need of one. What Ray makes of this
                    # address depends on the environment that `clusters.local_ray` gives this process.
                    _node_ip_address=LOOPBACK,
                )
            except Exception as error:  # noqa: BLE001
                # Ray gives its daemons a fixed 30 s, raises a plain Exception, and leaves them running.
                _log.exception("Ray did not start")
                if not tries_left or self._stop.is_set():
                    raise ClusterError(f"Ray does not start here: {first_line(error)}") from None
                self._report(Phase(text="starting Ray once more; the machine is busy"))
                process_session.end(os.getsid(0), grace_s=_DAEMONS_END_S, besides=[os.getpid()])
            else:
                return

    def _wait_for_resources(self) -> None:
        said = ""
        while not self._stop.is_set() and (lack := self._lack()):
            if not self._job.wait:
                raise ClusterError(f"The cluster is too small: {lack}.{self._way_out()}")
            if lack != said:
                self._report(Phase(text=f"waiting for a larger cluster: {lack}"))
                said = lack
            self._stop.wait(1.0)

    def _lack(self) -> str:
        return missing_resources(self._fleet, [node.resources for node in living_nodes()])

    def _way_out(self) -> str:
        if self._job.address is None:  # This machine, which does not grow.
            return " Lower `replicas` or what each instance needs, or serve into a larger cluster: --address."
        return " With `--wait` the fleet waits for it to grow."

    def _deploy(self) -> None:
        self._report(Phase(text="starting Serve"))
        serve.start(proxy_location="Disabled")
        self._deployed = True
        deploy(self._fleet, wait=False)
        self._report(Phase(text="booting the instances"))

    async def _watch(self) -> None:
        directory = DirectoryClient(self._fleet.name)
        rows: list[InstanceRow] = []
        while not self._stop.is_set():
            try:
                view = await directory.snapshot()
            except (RayError, TimeoutError) as error:  # It comes back by itself.
                _log.warning("no directory: %s", error)
            else:
                latest = [InstanceRow.of(instance) for _, instance in sorted(view.instances.items())]
                if latest != rows:
                    rows = latest
                    self._report(Instances(rows=rows))
            if not self._ready:
                await asyncio.to_thread(self._check_boot)
                if self._ready and self._job.address is not None:
                    self._report(Ready(addresses=await self._addresses(directory)))
                    return
            await asyncio.to_thread(self._stop.wait, _CALM_POLL_S if self._ready else _POLL_S)

    def _check_boot(self) -> None:
        application = serve.status().applications.get(self._fleet.name)
        if application is None:
            return
        messages = [deployment.message for deployment in application.deployments.values() if deployment.message]
        gave_up = has_given_up(application)
        # Serve boots a replica several times before it gives up; the person who sits here is told at once.
        tried = self._job.address is None and any(_FAILED_ONCE in message for message in messages)
        if gave_up or tried:
            message = next((text for text in messages if _FAILED_ONCE in text or "rror" in text), application.message)
            _log.error("Serve says: %s", message)
            raise ClusterError(f"The fleet did not start: {reason(message)}")
        # What a client sees is what counts; a foreign cluster's ports may be out of reach from here.
        tls = self._fleet.http.tls
        # Without a certificate of its own nobody is answered, and nobody at all before there are keys.
        is_closed = (tls is not None and tls.client_ca is not None) or self._fleet.http.keys.pushed
        out_of_reach = self._job.address is not None or is_closed
        self._ready = application.status == "RUNNING" if out_of_reach else self._answers()
        if self._ready and self._job.address is None:
            self._report(Ready())

    async def _addresses(self, directory: DirectoryClient) -> list[Answering]:
        """Where the router replicas answer. Those that run have told it, or do so in a moment."""
        settings, deadline_s = self._fleet.http, time.monotonic() + _TELL_S
        told: list[RouterAddress] = []
        while len(told) < self._fleet.router.least_replicas and time.monotonic() < deadline_s:
            await asyncio.to_thread(self._stop.wait, _POLL_S)
            # The directory comes back by itself.
            with suppress(RayError, TimeoutError):
                told = told_addresses(await directory.board(GAUGES_PREFIX))
        nodes = {node.id: node.address for node in await asyncio.to_thread(living_nodes)}
        scheme = "http" if settings.tls is None else "https"
        # Those of one node share its port.
        found = sorted({(f"{scheme}://{one.address}", nodes.get(one.node, "")) for one in told})
        # At an address of loopback, somebody else may answer here.
        hidden = "" if not is_loopback(settings.host) else ray.util.get_node_ip_address()
        tried = [url for url, node in found if node == hidden or not hidden]
        answer = await asyncio.to_thread(answering, tried)
        return [Answering(url=url, node=node, answers=url in answer and hidden in ("", node)) for url, node in found]

    def _answers(self) -> bool:
        settings = self._fleet.http
        url = http_url(settings.host, settings.port, tls=settings.tls is not None) + "/ready"
        trusted = trusting_anybody()
        try:
            with urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT_S, context=trusted) as answer:  # noqa: S310 - ours
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return False

    def _take_down(self) -> None:
        if not ray.is_initialized():
            return
        if self._job.address is not None:
            if self._deployed and not self._ready:
                serve.delete(self._fleet.name)
        elif self._ready:
            serve.shutdown()  # Drains; a fleet that still boots has nothing to drain.
        ray.shutdown()

    def _report(self, report: Report) -> None:
        with suppress(BrokenPipeError):  # The command line was killed; the end of our input says so, too.
            os.write(self._reports, encode(report))


def _stop_at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def main() -> int:
    """Entry point."""
    reports = int(sys.argv[1])
    os.set_inheritable(reports, False)
    job = Job.model_validate_json(sys.stdin.buffer.readline())
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    process = FleetProcess(job, reports, stop)
    try:
        process.run()
    except ClusterError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
