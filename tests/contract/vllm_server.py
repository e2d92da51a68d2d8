"""vLLM's own API server with the demo model: it speaks OpenAI's API, and Anthropic's Messages."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engines.demo import MODEL_PATH
from tests.benchmarks.servers import HOST, ServerPlan
from tests.benchmarks.sides import EngineOptions, vllm_plan

BOOT_S = 900.0
PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_v3")


@contextmanager
def vllm_server(log: Path) -> Iterator[str]:
    """Where it answers. Stopped at the end."""
    plan: ServerPlan = vllm_plan(EngineOptions(MODEL_PATH, max_num_seqs=32, kv_cache_bytes=64 * 2**20))
    command = [*plan.command, *PARSERS]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            # Between two tests no connection is to be closed just when the next one uses it.
            env={**os.environ, **plan.environment, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600"},
            start_new_session=True,
        )
    url = f"http://{HOST}:{plan.port}"
    try:
        until = time.monotonic() + BOOT_S
        while not _is_up(url):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
