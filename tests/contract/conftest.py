"""Each engine starts once, when its first test comes, and ends with its last one."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.contract.asking import Running
from tests.contract.subjects import SUBJECTS, Subject
from tests.contract.vllm_server import vllm_server


@pytest.fixture(scope="package")
def vllm_api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where vLLM's own API server answers."""
    pytest.importorskip("vllm")
    with vllm_server(tmp_path_factory.mktemp("vllm") / "log") as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session", scope="package", params=SUBJECTS, ids=lambda subject: subject.name)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    given: Subject = request.param
    async with given.open(*map(request.getfixturevalue, given.fixtures)) as engine:
        yield Running(engine, given.model, given.names(engine), given.is_foreign, given.speaks_foreign_api)
