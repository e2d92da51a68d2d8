import pytest

from tests.benchmarks.quantiles import Spread, quantile, ratios


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_quantiles_are_values_of_the_sample(share: float, expected: int) -> None:
    assert quantile(list(range(100, 0, -1)), share) == expected


def test_the_quantile_of_one_value_is_that_value_and_of_none_is_zero() -> None:
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([], 0.5) == 0.0


def test_ratios_are_paired_by_round() -> None:
    # The machine became twice as slow from round to round: the sides' ratio did not change.
    assert ratios([80, 40, 20], [100, 50, 25]) == Spread(0.8, 0.8, 0.8)


def test_the_spread_names_the_worst_and_the_best_round() -> None:
    assert ratios([90, 100, 130], [100, 100, 100]) == Spread(1.0, 0.9, 1.3)


def test_unpaired_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])
