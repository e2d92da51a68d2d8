from io import StringIO

from rich.console import Console

from tests.benchmarks.comparison import Comparison, ComparisonPlan
from tests.benchmarks.load import LoadResult
from tests.benchmarks.load_process import Measurement
from tests.benchmarks.processes import Role
from tests.benchmarks.report import print_comparison


def measurement(tokens_per_s: float, ttft_s: float = 0.01) -> Measurement:
    load = LoadResult(
        requests=10,
        tokens=1280,
        wall_s=1280 / tokens_per_s,
        events=1310,
        prompt_tokens=35.0,
        ttft_p50_s=ttft_s,
        ttft_p99_s=2 * ttft_s,
        itl_p50_s=0.002,
        itl_p99_s=0.004,
        client_cpu_s=0.0128,
    )
    return Measurement(load, {Role.ROUTER: 0.0256, Role.ENGINE_ACTOR: 0.0384, Role.ENGINE_CORE: 1.28}, others_cpu_s=0.1)


def printed(comparison: Comparison) -> list[str]:
    console = Console(file=StringIO(), width=200)
    print_comparison(console, comparison, ours="Penstock", theirs="vLLM")
    assert isinstance(console.file, StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def comparison(ours: list[Measurement], theirs: list[Measurement], clients: int) -> Comparison:
    plan = ComparisonPlan(rounds=len(ours), clients=(clients,), duration_s=1.0)
    return Comparison(plan, {}, {("Penstock", clients): ours, ("vLLM", clients): theirs})


def test_the_ratio_is_the_median_of_the_rounds_and_stands_beside_its_target() -> None:
    ours = [measurement(900), measurement(960), measurement(1100)]
    theirs = [measurement(1000), measurement(1000), measurement(1000)]
    assert "| 64 | 1000 (1000-1000) | 960 (900-1100) | 0.96 (0.90-1.10) | 0.95 | yes |" in printed(
        comparison(ours, theirs, 64)
    )


def test_a_missed_target_says_so() -> None:
    lines = printed(comparison([measurement(940)] * 3, [measurement(1000)] * 3, 128))
    assert any(line.endswith("| 0.95 | NO |") for line in lines)


def test_the_first_token_of_one_client_has_a_target_of_its_own() -> None:
    lines = printed(comparison([measurement(1000, 0.015)] * 3, [measurement(1000, 0.010)] * 3, 1))
    assert "TTFT p50 at 1 client: +5.0 (+5.0-+5.0) ms over vLLM; target at most +4.0 ms: NO" in lines


def test_serving_is_all_but_the_engine_s_own_processes() -> None:
    measured = measurement(1000)
    assert round(measured.cpu_per_token_s(Role.ROUTER) * 1e6) == 20
    assert round(measured.serving_cpu_per_token_s * 1e6) == 50
