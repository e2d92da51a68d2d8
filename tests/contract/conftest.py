"""Each engine starts once, when its first test comes."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.asking import Running
from tests.contract.subjects import SUBJECTS


@pytest_asyncio.fixture(loop_scope="session", scope="session", params=SUBJECTS, ids=lambda subject: subject.name)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    if request.param.needs_serve:
        request.getfixturevalue("serve_cluster")
    async with request.param.open() as engine:
        yield Running(engine, request.param.model, request.param.names(engine))
