"""A Prometheus of a test's own, which scrapes what it is told to; needs Debian's package `prometheus`, or another."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.servers import HOST, free_port

_START_S = 60.0
_CONFIG = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}}


class Prometheus:
    """One that runs.

    Args:
        url: Where it answers.
        process: It.
        log: What it says.
    """

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._url = url
        self._process = process
        self._log = log
        # It is of this machine: no proxy of the environment's is asked.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of what a query finds now; nothing as long as it does not answer."""
        found = self._get(f"/api/v1/query?query={urllib.parse.quote(query)}")
        results = [] if found is None else found["data"]["result"]
        return [(result["metric"], float(result["value"][1])) for result in results]

    def until(self, query: str, count: int) -> list[tuple[dict[str, str], float]]:
        """The same, once it finds so many."""
        deadline_s = time.monotonic() + _START_S
        while len(values := self.values(query)) != count:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, (query, values, self.targets())
            time.sleep(0.2)
        return values

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and what came of it last."""
        found = self._get("/api/v1/targets")
        return [] if found is None else list(found["data"]["activeTargets"])

    def _get(self, path: str) -> Any:
        try:
            with self._opener.open(self._url + path, timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:
            return None


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], key: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes these addresses with this API key each second; skips the test where there is none."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (Debian's package `prometheus`)")
    job = {
        "job_name": "penstock",
        "authorization": {"credentials": key},
        "static_configs": [{"targets": list(targets)}],
    }
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(json.dumps({**_CONFIG, "scrape_configs": [job]}))  # JSON is YAML, too.
    listens = f"{HOST}:{free_port()}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={listens}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Prometheus(f"http://{listens}", process, log)
    finally:
        process.kill()
        process.wait()
