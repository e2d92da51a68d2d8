import pytest

from deployments.scaling.work_rates import MeasuredRates, Rates


def measured() -> MeasuredRates:
    return MeasuredRates(Rates(1000, 100))


def test_work_is_tokens_over_rates() -> None:
    assert Rates(1000, 100).work_s(500, 50) == 1.0


def test_the_prior_holds_until_something_is_measured() -> None:
    assert measured().rates == Rates(1000, 100)


def test_busy_instances_show_what_one_does() -> None:
    rates = measured()
    for second in range(10):
        rates.note(second, 1.0, 2, prompt_tokens=600, output_tokens=40, is_busy=True)
    # 1 s of the prior's work in each second, by two instances.
    assert rates.rates == Rates(500, 50)


def test_no_measurement_by_itself_turns_everything_over() -> None:
    rates = measured()
    for second in range(10):
        rates.note(second, 1.0, 1, 10, 0, is_busy=True)
    assert rates.rates == Rates(500, 50)


def test_a_later_measurement_moves_the_rates_bit_by_bit() -> None:
    rates = measured()
    for second in range(10):
        rates.note(second, 1.0, 1, 1000, 0, is_busy=True)
    for second in range(10):
        rates.note(10 + second, 1.0, 1, 2000, 0, is_busy=True)
    assert 1000 < rates.rates.prompt_tokens_per_s < 1500


def test_instances_that_had_little_to_do_say_nothing() -> None:
    rates = measured()
    for second in range(60):
        rates.note(second, 1.0, 1, 100, 0, is_busy=False)
    assert rates.rates == Rates(1000, 100)


def test_instances_that_do_more_than_they_were_thought_to_do_show_that_without_being_busy() -> None:
    rates = measured()
    for second in range(20):
        rates.note(second, 1.0, 1, 3000, 0, is_busy=False)
    assert rates.rates.prompt_tokens_per_s == pytest.approx(3000)


def test_a_prompt_alone_is_better_than_a_guess_and_worse_than_a_measurement() -> None:
    rates = measured()
    rates.saw_prompts(4000)
    assert rates.rates == Rates(4000, 400)
    for second in range(10):
        rates.note(second, 1.0, 1, 2000, 0, is_busy=True)
    rates.saw_prompts(9000)
    assert rates.rates.prompt_tokens_per_s == pytest.approx(2000)


def test_what_was_measured_before_counts_until_it_is_measured_again() -> None:
    rates = measured()
    rates.recall(0, 5000)
    rates.saw_prompts(100)
    assert rates.rates == Rates(5000, 500)
    for second in range(10):
        rates.note(second, 1.0, 1, 2500, 0, is_busy=True)
    now = rates.rates.prompt_tokens_per_s
    assert 2500 < now < 5000
    rates.recall(20, 5000)
    assert rates.rates.prompt_tokens_per_s == now


def test_rates_that_were_never_tried_out_grow_while_there_is_no_strain() -> None:
    rates = measured()
    for second in range(300):
        rates.note(second, 1.0, 1, 800, 0, is_busy=False)
    assert 1100 < rates.rates.prompt_tokens_per_s < 1700


def test_nothing_is_learned_without_instances() -> None:
    rates = measured()
    for second in range(60):
        rates.note(second, 1.0, 0, 5000, 0, is_busy=True)
    assert rates.rates == Rates(1000, 100)
