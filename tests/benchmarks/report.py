"""The comparison as tables, in Markdown, so that they can be kept."""

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.comparison import Comparison
from tests.benchmarks.load_process import Measurement
from tests.benchmarks.processes import Role
from tests.benchmarks.quantiles import Spread, ratios

SPEED_TARGETS = {1: 0.75, 8: 0.75, 64: 0.95, 128: 0.95}
"""Least tokens per second of ours over theirs, by number of clients."""
TTFT_TARGET_S = 0.004
"""Most that ours may add to the median TTFT of one client."""

_Figure = Callable[[Measurement], float]


def print_comparison(console: Console, comparison: Comparison, ours: str, theirs: str) -> None:
    """Prints speed with its targets, latencies, and CPU per token."""
    print_speed(console, comparison, ours, theirs)
    if 1 in comparison.plan.clients:
        console.print(_ttft_verdict(comparison, ours, theirs))
    console.print("Latencies in milliseconds: medians of the rounds")
    console.print(_latencies(comparison, ours, theirs))
    console.print("CPU microseconds per token by process: medians; `serving` is all but the engine's own")
    console.print(_cpu(comparison, ours, theirs))


def print_speed(console: Console, comparison: Comparison, ours: str, theirs: str) -> None:
    """Prints the tokens per second of two sides, and their ratio."""
    console.print("Tokens per second: median (min-max) of the rounds")
    console.print(_speed(comparison, ours, theirs))


def table(*columns: str) -> Table:
    """An empty table in Markdown; the first column is for words, the others for figures."""
    made = Table(box=box.MARKDOWN)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    return made


def _speed(comparison: Comparison, ours: str, theirs: str) -> Table:
    made = table("clients", theirs, ours, "ratio", "target", "met")
    for clients in comparison.plan.clients:
        our_speeds = _values(comparison, ours, clients, lambda m: m.load.tokens_per_s)
        their_speeds = _values(comparison, theirs, clients, lambda m: m.load.tokens_per_s)
        ratio = ratios(our_speeds, their_speeds)
        target = SPEED_TARGETS.get(clients)
        made.add_row(
            str(clients),
            _spread(Spread.of(their_speeds), "{:.0f}"),
            _spread(Spread.of(our_speeds), "{:.0f}"),
            _spread(ratio, "{:.2f}"),
            "" if target is None else f"{target:.2f}",
            "" if target is None else _verdict(ratio.median >= target),
        )
    return made


def _ttft_verdict(comparison: Comparison, ours: str, theirs: str) -> str:
    our_ttfts = _values(comparison, ours, 1, lambda m: m.load.ttft_p50_s)
    their_ttfts = _values(comparison, theirs, 1, lambda m: m.load.ttft_p50_s)
    added = Spread.of([our - their for our, their in zip(our_ttfts, their_ttfts, strict=True)])
    return (
        f"TTFT p50 at 1 client: {_spread(_scaled(added, 1e3), '{:+.1f}')} ms over {theirs}; "
        f"target at most {TTFT_TARGET_S * 1e3:+.1f} ms: {_verdict(added.median <= TTFT_TARGET_S)}\n"
    )


def _latencies(comparison: Comparison, ours: str, theirs: str) -> Table:
    made = table("clients", "server", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "tokens per event")
    figures: tuple[_Figure, ...] = (
        lambda m: m.load.ttft_p50_s,
        lambda m: m.load.ttft_p99_s,
        lambda m: m.load.itl_p50_s,
        lambda m: m.load.itl_p99_s,
    )
    for clients in comparison.plan.clients:
        for side in (theirs, ours):
            medians = [f"{_median(comparison, side, clients, figure) * 1e3:.1f}" for figure in figures]
            grouped = _median(comparison, side, clients, lambda m: m.load.tokens / m.load.events)
            made.add_row(str(clients), side, *medians, f"{grouped:.2f}")
    return made


def _cpu(comparison: Comparison, ours: str, theirs: str) -> Table:
    made = table("clients", "server", *Role, "serving", "load client", "others, cores")
    for clients in comparison.plan.clients:
        for side in (theirs, ours):
            cells = [_role_cell(comparison, side, clients, role) for role in Role]
            serving = _median(comparison, side, clients, lambda m: m.serving_cpu_per_token_s)
            client = _median(comparison, side, clients, lambda m: m.load.client_cpu_per_token_s)
            others = _median(comparison, side, clients, lambda m: m.others_cores)
            made.add_row(str(clients), side, *cells, f"{serving * 1e6:.1f}", f"{client * 1e6:.1f}", f"{others:.2f}")
    return made


def _role_cell(comparison: Comparison, side: str, clients: int, role: Role) -> str:
    if not any(role in measured.cpu_s for measured in comparison.measurements[side, clients]):
        return ""
    return f"{_median(comparison, side, clients, lambda m: m.cpu_per_token_s(role)) * 1e6:.1f}"


def _values(comparison: Comparison, side: str, clients: int, figure: _Figure) -> list[float]:
    return [figure(measured) for measured in comparison.measurements[side, clients]]


def _median(comparison: Comparison, side: str, clients: int, figure: _Figure) -> float:
    return Spread.of(_values(comparison, side, clients, figure)).median


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor)


def _spread(spread: Spread, form: str) -> str:
    return f"{form.format(spread.median)} ({form.format(spread.low)}-{form.format(spread.high)})"


def _verdict(met: bool) -> str:
    return "yes" if met else "NO"
