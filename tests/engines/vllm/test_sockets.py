"""The sockets over which vLLM's processes speak: whoever could write to one would speak to the engine."""

import re
from pathlib import Path

import psutil
import pytest

from deployments.private_folder import is_private_folder
from engines.vllm.engine import VllmEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_they_are_in_a_folder_of_this_users_alone(vllm_engine: VllmEngine) -> None:
    await vllm_engine.check_health()
    found = psutil.Process()
    processes = [found, *found.children(recursive=True)]
    paths = {one.laddr for process in processes for one in process.net_connections("unix")}
    # vLLM calls each by a UUID.
    folders = {Path(path).parent for path in paths if re.fullmatch(r"[0-9a-f-]{36}", Path(path).name)}
    assert folders
    assert all(is_private_folder(folder) for folder in folders), folders
