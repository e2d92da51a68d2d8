import pytest

from deployments.metric_exchange import GAUGES_PREFIX
from deployments.metrics import Metrics
from deployments.router_addresses import RouterAddress, RouterInfo, reachable, told_addresses
from tests.deployments.memory_board import MemoryBoard


@pytest.mark.parametrize(
    ("host", "node", "expected"),
    [
        ("0.0.0.0", "10.0.0.2", "10.0.0.2:8000"),
        ("::", "fd00::2", "[fd00::2]:8000"),
        ("127.0.0.1", "10.0.0.2", "127.0.0.1:8000"),
        ("llm.internal", "10.0.0.2", "llm.internal:8000"),
    ],
)
def test_others_find_a_router_at_its_node_unless_it_listens_on_one_address(host: str, node: str, expected: str) -> None:
    assert reachable(host, 8000, node) == expected


async def test_each_replica_tells_where_it_answers_as_long_as_it_lives() -> None:
    board = MemoryBoard()
    expected = [RouterAddress(f"10.0.0.{number}:8000", f"n{number}", f"router#{number}") for number in (1, 2)]
    for at in reversed(expected):
        metrics = Metrics(at.router, board)
        metrics.add(RouterInfo(at))
        await metrics.post()
    assert told_addresses(await board.read(GAUGES_PREFIX)) == expected
    board.now_s += 60
    assert told_addresses(await board.read(GAUGES_PREFIX)) == []
